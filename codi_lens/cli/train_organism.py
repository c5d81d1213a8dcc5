"""Trains an organism: a small CODI model in which a known mechanism is planted.

Writes a checkpoint in CODI's layout with pairs, `truth.json` and a card, and prints the certificate. Exit code 1 says that the
model misses a bar of it. `--resume` goes on with a training that was stopped.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from codi_lens.cli import flags
from codi_lens.cli.certify import print_certificate
from codi_lens.cli.folders import fresh_folder
from codi_lens.cli.program import Program
from codi_lens.errors import UserError
from codi_lens.shipped import ORGANISMS

if TYPE_CHECKING:
    from codi_lens.organisms.planted.recipe import Progress

STATE_FILE = "training.pt"
"""While a training is under way."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    add = parser.add_argument
    add("name", metavar="NAME", help="of the mechanism, such as sequential")
    flags.add_out(parser)
    flags.add_seed(parser)
    add(
        "--steps",
        type=int,
        help="with interchanges (default: the recipe's); the model is worse with fewer",
    )
    add(
        "--begin-from",
        metavar="FOLDER",
        type=flags.path,
        help="an organism whose weights are taken (default: the recipe's)",
    )
    add("--resume", action="store_true", help="go on with the training in --out")
    add("--threads", type=int, default=1, help="of torch")


def make(arguments: argparse.Namespace) -> bool:
    """Trains, writes the organism, and says whether its certificate holds."""
    import torch

    from codi_lens.memory import keep_freed_memory
    from codi_lens.organisms.planted.export import add_pairs, write_organism
    from codi_lens.organisms.planted.recipe import recipe_of
    from codi_lens.organisms.planted.train import Trainer

    recipe = recipe_of(arguments.name, arguments.seed)
    if arguments.steps is not None:
        recipe = replace(recipe, steps=arguments.steps)
    folder = _folder(arguments)
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    begin = arguments.begin_from or first_weights(recipe.mechanism.begins_from, arguments.seed)
    trainer = Trainer(recipe, begin)
    state = folder / STATE_FILE
    if arguments.resume:
        trainer.resume(state)

    def report(line: "Progress", rules: list[float]) -> None:
        trainer.save(state)
        print(progress_line(line, rules), flush=True)

    run = trainer.train(report)
    certificate = write_organism(run, folder)
    print_certificate(certificate)
    add_pairs(folder, recipe.seed)
    state.unlink()
    print(f"written to {folder}")
    return certificate.holds


def first_weights(mechanism: str | None, seed: int) -> Path | None:
    """The folder of the shipped organism that a recipe starts from: of the same seed, if there is one."""
    if mechanism is None:
        return None
    return ORGANISMS.get(f"{mechanism}-{seed}", ORGANISMS[mechanism])


def progress_line(line: "Progress", rules: list[float]) -> str:
    """A line of the curve, with the rate of every rule."""
    return (
        f"{line.step:5} {line.seconds:5.0f}s  answer {line.answer_loss:.4f}  says {line.says_loss:.4f}  "
        f"interchange {line.interchange_loss:.4f}  held-out {line.accuracy:.1%}  rules "
        + " ".join(f"{rate:.2f}" for rate in rules)
    )


def _folder(arguments: argparse.Namespace) -> Path:
    if not arguments.resume:
        return fresh_folder(arguments.out, f"organism_{arguments.name}")
    if arguments.out is None or not (arguments.out / STATE_FILE).exists():
        raise UserError(
            f"--resume: {arguments.out} holds no training to go on with; give its folder as --out"
        )
    folder: Path = arguments.out
    return folder


main = Program("train_organism", __doc__, add_flags, make)
