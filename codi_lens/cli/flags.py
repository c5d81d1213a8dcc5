"""Flags: those that several programs have, what they may be, and how --help shows them."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codi_lens.errors import UserError
from codi_lens.files import expand

IMAGE_FORMATS = ("png", "svg", "pdf")
MOST_LABELS = 10_000
"""Of layers or positions: no model has as many."""
OWN_OF_A_CALL = ("resume", "debug", "given", "threads")
"""Arguments that say nothing about what is run."""


class HelpFormatter(argparse.HelpFormatter):
    """Adds the default to a flag's text, where it has one; what None stands for is in the text."""

    def _get_help_string(self, action: argparse.Action) -> str:
        unsaid = any(action.default is value for value in (None, False, (), argparse.SUPPRESS))
        return f"{action.help}{'' if unsaid else ' (default: %(default)s)'}"


def path(text: str) -> Path:
    """A flag that is a path: `~` is the user's home, also where no shell has seen to it."""
    return expand(text)


def labels(text: str) -> tuple[int | str, ...]:
    """Parses "bot,0-3,7" as bot, 0, 1, 2, 3, 7."""
    values: list[int | str] = []
    for part in text.split(","):
        if part in ("thought", "bot", "eot"):
            values.append(part)
            continue
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list such as bot,0-3,7")
        start, end = int(first), int(last if dash else first) + 1
        if end - start > MOST_LABELS:
            raise argparse.ArgumentTypeError(f"{text!r} is more than any model has")
        values += range(start, end)
    return tuple(values)


def rows_of_a_map(text: str) -> tuple[int | str, ...]:
    """Parses "0-2,thought,2.1,blocks.0.ln2.hook_normalized": as `labels`, with names of places."""
    found: list[int | str] = []
    for part in text.split(","):
        found += [part] if "." in part else labels(part)
    return tuple(found)


def names(text: str) -> tuple[str, ...]:
    """Parses "2.1@3,logits" as a list of names."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name in it")
    return found


def add_experiment_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of every program that asks a model about pairs."""
    add_model(parser)
    add_pairs(parser)
    add_limit(parser)
    add_out(parser)
    add_seed(parser)
    add_threads(parser)


def add_model(parser: argparse.ArgumentParser) -> None:
    """--model."""
    text = "'toy', 'toy-gpt2', 'toy-coconut', 'organism:NAME', a folder, a file of weights, or a hub id"
    parser.add_argument("--model", default="toy", help=text)


def add_pairs(parser: argparse.ArgumentParser) -> None:
    """--pairs; what stands for none, `asking.pairs_name` says."""
    text = (
        "'toy', 'toy-heldout', 'organism:NAME', 'gsm8k', 'gsm8k-aug', 'prosqa', or a file or folder of pairs "
        "(default: the model's own)"
    )
    parser.add_argument("--pairs", help=text)


def add_out(parser: argparse.ArgumentParser) -> None:
    """--out, for a folder."""
    text = "folder to write to (default: a fresh one under results/)"
    parser.add_argument("--out", type=path, help=text)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """--threads."""
    text = "how many, on the CPU (default: as the model's width asks)"
    parser.add_argument("--threads", type=int, help=text)


def add_limit(parser: argparse.ArgumentParser) -> None:
    """--limit."""
    parser.add_argument("--limit", type=int, help="only the first LIMIT pairs (default: all)")


def add_side(parser: argparse.ArgumentParser) -> None:
    """--side."""
    parser.add_argument(
        "--side", default="clean", choices=("clean", "corrupted"), help="whose question is asked"
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    """--seed."""
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn at random")


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Finished runs to read."""
    parser.add_argument(
        "runs", metavar="RUN", type=path, nargs="+", help="folders of finished runs"
    )


def check_texts(given: Sequence[str]) -> None:
    """Checks that records, which are UTF-8, can hold all arguments, paths among them, before any work.

    Raises:
        UserError: names the argument.
    """
    for argument in given:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"the argument {argument!r} is not UTF-8; give a path or text that is (rename the file)"
            ) from error


def check_numbers(arguments: argparse.Namespace) -> None:
    """Checks the flags that are numbers, before anything is loaded.

    Raises:
        UserError: names the flag and what it takes.
    """
    ones = (
        "limit",
        "batch_rows",
        "batch",
        "steps",
        "changes",
        "repeats",
        "sample",
        "threads",
        "max_new_tokens",
    )
    for name, least in {"seed": 0, "pairs": 0, "window": 0, **dict.fromkeys(ones, 1)}.items():
        value = getattr(arguments, name, None)
        most = 2**10 if name == "threads" else 2**63 - 1
        if isinstance(value, int) and not least <= value <= most:
            allowed = f"{least} or more" if value < least else f"{most} or less"
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must be {allowed}")
    gap = getattr(arguments, "min_gap", 0.0)
    if not 0 <= gap < math.inf:
        raise UserError(f"--min-gap is {gap}; it must be 0 or more")


def as_json(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the user asked for, as a record keeps it."""
    plain = (str, int, float, bool, type(None))
    asked = {k: v for k, v in vars(arguments).items() if k not in OWN_OF_A_CALL}
    return {k: v if isinstance(v, plain) else str(v) for k, v in asked.items()}
