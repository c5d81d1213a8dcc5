"""What a program asks a model about, where results on the way must be known: pairs, or an organism's own task.

A model that ships is asked its own, unless --pairs says something else: an organism the held-out problems of its task.
"""

import argparse
from typing import TYPE_CHECKING

from codi_lens.cli import flags
from codi_lens.shipped import ORGANISMS, PAIRS

if TYPE_CHECKING:
    from codi_lens import Pair, Variant
    from codi_lens.organisms.planted.truth import Truth

PROBLEMS = 400
"""Of an organism's own, where --limit says nothing."""
PER_PAIR = 8
"""Problems for every pair that --limit allows."""


def add_asking_flags(parser: argparse.ArgumentParser) -> None:
    """As every program that asks a model has them; no --pairs are the model's own."""
    flags.add_experiment_flags(parser, own_pairs=True)


def own_truth(arguments: argparse.Namespace) -> "Truth | None":
    """The truth about the model, if it is an organism that is asked its own task."""
    from codi_lens.organisms.planted.truth import read_truth

    name = str(arguments.model).removeprefix("organism:")
    return read_truth(ORGANISMS[name]) if name in ORGANISMS and arguments.pairs is None else None


def problem_count(arguments: argparse.Namespace) -> int:
    """How many of an organism's own problems are asked."""
    return PER_PAIR * arguments.limit if arguments.limit else PROBLEMS


def chosen_pairs(arguments: argparse.Namespace) -> list["Pair"]:
    """The pairs that --pairs asks for, or the model's own, or those of the embedded model; --limit of them."""
    from codi_lens import load_pairs

    own = arguments.model if arguments.model in PAIRS else "toy"
    return load_pairs(arguments.pairs or own)[: arguments.limit]


def questions(arguments: argparse.Namespace) -> "list[Variant] | list[Pair]":
    """Held-out problems of an organism's own task, or else the pairs."""
    truth = own_truth(arguments)
    if truth is None:
        return chosen_pairs(arguments)
    return problems(truth, problem_count(arguments), arguments.seed)


def problems(truth: "Truth", count: int = PROBLEMS, seed: int = 0) -> "list[Variant]":
    """Held-out problems of an organism's task, with their results on the way."""
    from codi_lens.organisms.planted.certify import heldout
    from codi_lens.organisms.planted.pairs import variant_of

    # Not those that a certificate is measured on.
    batches = heldout(truth, count, seed=3 + seed)
    return [variant_of(problem) for batch in batches for problem in batch]
