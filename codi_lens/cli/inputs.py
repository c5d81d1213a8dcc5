"""What a patching program starts from: the model, pairs and settings that its flags choose."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi_lens.cli import common
from codi_lens.cli.processes import Processes
from codi_lens.errors import UserError, command

if TYPE_CHECKING:
    from codi_lens import HookedCodi, Pair
    from codi_lens.patching.settings import Settings


@dataclass(frozen=True)
class Work:
    """A run, ready to go."""

    experiment: str
    codi: "HookedCodi"
    pairs: list["Pair"]
    settings: "Settings"
    arguments: argparse.Namespace
    saved: Any
    folder: Path
    here: Processes

    @property
    def command(self) -> str:
        """How to go on with the run."""
        return command(self.experiment, "--resume", self.folder)


def prepare(
    experiment: str,
    arguments: argparse.Namespace,
    here: Processes,
    options: dict[str, Any],
) -> Work:
    """Loads, checks and chooses; makes the folder when all is right."""
    # Heavy imports wait until the arguments are known to be right.
    from codi_lens.patching.checks import check_pairs
    from codi_lens.patching.sweep import make_settings

    pairs = chosen_pairs(arguments)
    codi = common.load_model(arguments, here.device(arguments.device))
    settings = make_settings(
        codi,
        **{name: getattr(arguments, name) for name in ("layers", "positions", "num_latents")},
        **{name: getattr(arguments, name) for name in ("site", "direction", "answer_start")},
        min_gap=arguments.min_gap,
        seed=arguments.seed,
        **options,
    )
    check_pairs(codi, pairs, settings.num_latents)
    pairs = filtered(codi, pairs, arguments)
    saved = saved_activations(arguments, codi, pairs, settings)
    folder = arguments.resume
    if folder is None and here.index == 0:
        folder = common.fresh_folder(arguments.out, experiment)
    folder = Path(here.from_first(str(folder)))
    return Work(experiment, codi, pairs, settings, arguments, saved, folder, here)


def how_it_runs(arguments: argparse.Namespace, saved: Any) -> dict[str, Any]:
    """What the journal of a run knows of it beside model, pairs and settings."""
    from codi_lens.records.manifest import tensors_digest

    return {
        "arguments": arguments.given,
        "working_folder": os.getcwd(),
        "batch_rows": arguments.batch_rows,
        "answers": answers_to_decode(arguments),
        "activations": None if saved is None else tensors_digest(saved),
    }


def answers_to_decode(arguments: argparse.Namespace) -> str:
    """--answers, or what it is when not given."""
    return arguments.answers or ("all" if arguments.model == "toy" else "top")


def chosen_pairs(arguments: argparse.Namespace) -> list["Pair"]:
    """The pairs that --pairs, --limit and --include-same-answer ask for."""
    from codi_lens import load_pairs

    pairs = load_pairs(arguments.pairs)
    if not arguments.include_same_answer:
        kept = [pair for pair in pairs if not pair.same_answer]
        if len(kept) < len(pairs):
            print(f"{len(pairs) - len(kept)} pairs with the same answer on both sides set aside")
        pairs = kept
    if not pairs:
        raise UserError(f"{arguments.pairs} has no pair whose answers differ")
    return pairs[: arguments.limit]


def filtered(
    codi: "HookedCodi", pairs: list["Pair"], arguments: argparse.Namespace
) -> list["Pair"]:
    """The pairs that pass --filter."""
    from codi_lens.analysis.latent_ablation import passing

    kept = passing(codi, pairs, arguments.filter, num_latents=arguments.num_latents)
    if len(kept) < len(pairs):
        print(f"{len(pairs) - len(kept)} pairs left out by --filter {arguments.filter}")
    if not kept:
        raise UserError(f"no pair passes --filter {arguments.filter}")
    return kept


def saved_activations(
    arguments: argparse.Namespace, codi: "HookedCodi", pairs: list["Pair"], settings: Any
) -> Any:
    """Source activations of the run that --activations names, if they are those that are wanted."""
    from codi_lens.records.read import reusable_activations

    if getattr(arguments, "activations", None) is None:
        return None
    return reusable_activations(arguments.activations, codi, pairs, settings)
