"""Pairs that are made of a known data set when they are asked for, by its name."""

from collections.abc import Callable, Sequence
from typing import Any

from codi_lens.data.counterfactuals.gsm8k import gsm8k_pairs
from codi_lens.data.counterfactuals.made import Made
from codi_lens.data.counterfactuals.prosqa import prosqa_pairs
from codi_lens.data.datasets import load_rows
from codi_lens.data.pairs import pair_as_json
from codi_lens.errors import UserError, command

MAKERS: dict[str, Callable[[Sequence[Any]], Made]] = {
    "gsm8k": gsm8k_pairs,
    "gsm8k-aug": gsm8k_pairs,
    "prosqa": prosqa_pairs,
}


def gsm8k() -> list[dict[str, Any]]:
    """Entries of the pairs made of GSM8K's test problems."""
    return _entries("gsm8k")


def gsm8k_aug() -> list[dict[str, Any]]:
    """Entries of the pairs made of GSM8K-Aug's test problems."""
    return _entries("gsm8k-aug")


def prosqa() -> list[dict[str, Any]]:
    """Entries of the pairs made of ProsQA's test problems."""
    return _entries("prosqa")


def _entries(name: str) -> list[dict[str, Any]]:
    try:
        rows = load_rows(name)
    except UserError as error:
        way = command("make_pairs", name, "--data", "FILE", "--out", "FOLDER")
        raise UserError(
            f"{error}\n  {way}\nmakes pairs of the file; give FOLDER as pairs"
        ) from error
    return [pair_as_json(pair) for pair in MAKERS[name](rows).pairs]
