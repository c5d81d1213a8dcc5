"""Trains an embedded model: from a seed to a checkpoint with pairs and a card.

With the defaults this is how `codi_lens/organisms/toy/model` was made, and with --family the other two. `--steps`
spreads another number of optimisation steps over the stages, for a quick look; the model is then worse.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from codi_lens.cli import flags
from codi_lens.cli.folders import fresh_folder
from codi_lens.cli.program import Program
from codi_lens.shipped import EMBEDDED

if TYPE_CHECKING:
    from codi_lens.organisms.toy.train import Progress, Recipe, Trained


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    add = parser.add_argument
    add("--family", default="toy", choices=tuple(EMBEDDED), help="of the model")
    add("--out", metavar="FOLDER", type=flags.path, required=True, help="for the checkpoint")
    flags.add_seed(parser)
    add("--steps", type=int, help="in all stages (default: the recipe's)")
    add("--pairs", type=int, default=60, help="how many clean/corrupted pairs to make")
    add("--limit", type=int, help="held-out pairs that the card reports on (default: all)")
    add("--threads", type=int, help="of torch (default: its own choice)")


def make(arguments: argparse.Namespace) -> None:
    """Trains, and writes weights, card and pairs."""
    import torch

    from codi_lens.memory import keep_freed_memory
    from codi_lens.organisms.toy.train import recipe_of, train

    folder = fresh_folder(arguments.out, "train_toy")
    keep_freed_memory()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    recipe = recipe_of(arguments.family, arguments.seed)
    if arguments.steps is not None:
        recipe = with_steps(recipe, arguments.steps)
    start = time.perf_counter()
    run = train(recipe, _print_progress)
    finish(run, folder, time.perf_counter() - start, arguments.pairs, arguments.limit)
    print(f"written to {folder}")


def finish(
    run: "Trained", folder: Path, seconds: float, n_pairs: int, limit: int | None = None
) -> None:
    """Writes a trained model; pairs and card come from the model as anyone will load it."""
    from codi_lens import HookedCodi, load_pairs
    from codi_lens.analysis.latent_ablation import measure_necessity
    from codi_lens.cli.necessity import entry, table
    from codi_lens.files import write_text
    from codi_lens.organisms.toy.card import make_card
    from codi_lens.organisms.toy.export import write_model
    from codi_lens.organisms.toy.pairs import make_pairs, write_pairs

    write_model(run, folder)
    codi = HookedCodi.from_pretrained(folder)
    pairs = load_pairs("toy-heldout")[:limit]
    variants = [variant for pair in pairs for variant in (pair.clean, pair.corrupted)]
    questions, answers = [v.question for v in variants], [v.answer for v in variants]
    measured = measure_necessity(codi, questions, answers)
    record = entry(measured, [pair.kind for pair in pairs for _ in range(2)])
    card = make_card(run.recipe, run.curve, record, seconds)
    write_text(folder / "README.md", card)
    print(table(record))
    write_pairs(make_pairs(codi.generate, n_pairs=n_pairs), folder)


def with_steps(recipe: "Recipe", total: int) -> "Recipe":
    """The recipe with this many steps, in the same proportions; at least one a stage."""
    share = total / sum(stage.steps for stage in recipe.stages)
    steps = [max(1, round(stage.steps * share)) for stage in recipe.stages]
    stages = tuple(
        replace(stage, steps=count) for stage, count in zip(recipe.stages, steps, strict=True)
    )
    return replace(recipe, stages=stages)


def _print_progress(line: "Progress") -> None:
    print(
        f"{line.stage:7} {line.step:5} {line.seconds:5.0f}s  teacher {line.teacher_loss:.4f}  "
        f"student {line.student_loss:.4f}  distill {line.distill_loss:.4f}  "
        f"held-out {line.accuracy:.1%}",
        flush=True,
    )


main = Program("train_toy", __doc__, add_flags, make)
