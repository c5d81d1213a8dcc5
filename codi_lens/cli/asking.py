"""What a program asks a model about: pairs, or, where results on the way must be known, an organism's own task.

A model that ships is asked its own, unless --pairs says something else.
"""

import argparse
from typing import TYPE_CHECKING

from codi_lens.errors import UserError
from codi_lens.shipped import ORGANISMS, PAIRS

if TYPE_CHECKING:
    from codi_lens import Pair, Variant
    from codi_lens.organisms.planted.truth import Truth

PROBLEMS = 400
"""Of an organism's own, where --limit says nothing."""
PER_PAIR = 8
"""Problems for every pair that --limit allows."""


def pairs_name(arguments: argparse.Namespace) -> str:
    """What --pairs says, or the model's own pairs.

    Raises:
        UserError: it says nothing, and there is no such model, or it has none; others are not guessed.
    """
    if arguments.pairs is not None:
        return str(arguments.pairs)
    if str(arguments.model) in PAIRS:
        return str(arguments.model)
    from codi_lens.checkpoint.hub import model_files

    model_files(arguments.model)  # a misspelt name is no question of pairs
    raise UserError(
        f"which pairs is {arguments.model} to be asked? give --pairs gsm8k, a file of its own, or toy for those of the "
        "embedded model"
    )


def own_truth(arguments: argparse.Namespace) -> "Truth | None":
    """The truth about the model, if it is an organism that is asked its own task."""
    from codi_lens.organisms.planted.truth import read_truth

    name = str(arguments.model).removeprefix("organism:")
    return read_truth(ORGANISMS[name]) if name in ORGANISMS and arguments.pairs is None else None


def problem_count(arguments: argparse.Namespace) -> int:
    """How many of an organism's own problems are asked."""
    return PER_PAIR * arguments.limit if arguments.limit else PROBLEMS


def chosen_pairs(arguments: argparse.Namespace) -> list["Pair"]:
    """The pairs that --pairs asks for, or the model's own; --limit of them."""
    from codi_lens import load_pairs

    return load_pairs(pairs_name(arguments))[: arguments.limit]


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
