"""What a patching program starts from: the model, pairs and settings that its flags choose."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codi_lens.cli.asking import pairs_name
from codi_lens.cli.folders import fresh_folder
from codi_lens.cli.model_flags import load_model
from codi_lens.cli.program import importing
from codi_lens.errors import UserError
from codi_lens.records.processes import Processes

if TYPE_CHECKING:
    from codi_lens import HookedCodi, Pair
    from codi_lens.patching.replacements import Replacement
    from codi_lens.patching.settings import Settings

SETTINGS = (
    "layers",
    "positions",
    "num_latents",
    "site",
    "direction",
    "answer_start",
    "min_gap",
    "seed",
    "effect",
    "controls",
    "intervention",
    "strength",
    "starts",
    "senders",
    "receivers",
    "window",
    "values",
)
"""Flags that are settings of a sweep; not every experiment has all."""


@dataclass(frozen=True)
class Inputs:
    """What `records.run` is called with."""

    codi: "HookedCodi"
    pairs: list["Pair"]
    settings: "Settings"
    replacement: "Replacement"
    folder: Path


def prepare(experiment: str, arguments: argparse.Namespace, here: Processes) -> Inputs:
    """Loads, checks and chooses; makes the folder when all is right."""
    # Heavy imports wait until the arguments are known to be right.
    with importing():
        from codi_lens import plots, records  # noqa: F401  (what comes after the run)
        from codi_lens.patching.checks import check_pairs
        from codi_lens.patching.experiments import experiment_named
        from codi_lens.patching.sweep import make_settings

    pairs = patchable_pairs(arguments)
    codi = load_model(arguments, here.device(arguments.device))
    given = {name: getattr(arguments, name) for name in SETTINGS if hasattr(arguments, name)}
    if "controls" in given:
        given["controls"] = given["controls"] == "all"
    if given.get("starts", ()) is None:
        given["starts"] = given["positions"] or range(codi.num_latents(arguments.num_latents))
    settings = make_settings(codi, experiment, **given)
    # What the experiment refuses, it refuses before there is a folder.
    experiment_named(experiment).check(settings)
    experiment_named(experiment).axes(settings)
    check_pairs(codi, pairs, settings.num_latents)
    pairs = filtered(codi, pairs, arguments)
    replacement = put_in(experiment, arguments, codi, pairs, settings)
    folder = arguments.resume
    if folder is None and here.index == 0:
        folder = fresh_folder(arguments.out, experiment)
    return Inputs(codi, pairs, settings, replacement, Path(here.from_first(str(folder))))


def patchable_pairs(arguments: argparse.Namespace) -> list["Pair"]:
    """The pairs that --pairs, --limit and --include-same-answer ask for."""
    from codi_lens import load_pairs

    arguments.pairs = pairs_name(arguments)  # as the record says it
    pairs = load_pairs(arguments.pairs)
    if not getattr(arguments, "include_same_answer", False):
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


def put_in(
    experiment: str,
    arguments: argparse.Namespace,
    codi: "HookedCodi",
    pairs: list["Pair"],
    settings: "Settings",
) -> "Replacement":
    """What --intervention, with the means of --data, or --activations put in."""
    from codi_lens import load_pairs
    from codi_lens.patching.experiments import experiment_named
    from codi_lens.patching.replacements import make_replacement, saved_activations
    from codi_lens.records.reuse import reusable_activations

    if (run := getattr(arguments, "activations", None)) is not None:
        return saved_activations(settings, reusable_activations(run, codi, pairs, settings))
    name = getattr(arguments, "data", None)
    data = None if name is None else load_pairs(name)
    places = experiment_named(experiment).places(settings)
    return make_replacement(codi, settings, pairs, data, places)
