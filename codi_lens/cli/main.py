"""The command `codi-lens NAME …`: every program of this package, by name."""

import sys
from collections.abc import Sequence
from importlib import import_module

from codi_lens.cli.program import UNUSABLE, Program
from codi_lens.cli.terminal import forgiving
from codi_lens.errors import COMMAND, UserError, one_of

NAMES = (
    "doctor",
    "necessity",
    "evaluate",
    "position_patching",
    "layer_patching",
    "iterative_patching",
    "routes",
    "path_patching",
    "knockout",
    "influence",
    "thoughts",
    "attention",
    "attribution",
    "logit_attribution",
    "circuit",
    "subspaces",
    "lens",
    "probes",
    "steering",
    "compare",
    "report",
    "inspect_checkpoint",
    "prepare_pairs",
    "make_pairs",
    "train_toy",
    "train_organism",
    "certify",
    "scorecard",
    "upload",
    "figures",
)
"""Each is a module beside this one, whose `main` is the program."""


def program(name: str) -> Program:
    """The program of this name.

    Raises:
        UserError: there is none; lists them.
    """
    found: Program = import_module(f"codi_lens.cli.{one_of(name, NAMES, 'program')}").main
    return found


def overview() -> str:
    """The programs, with a line each."""
    width = max(map(len, NAMES))
    lines = [f"  {name:<{width}}  {program(name).summary}" for name in NAMES]
    usage = f"usage: {COMMAND} NAME …\n       {COMMAND} NAME --help"
    return "\n".join([usage, "", *lines])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program that the first argument names on the others; returns its exit code."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    with forgiving():
        if name in ("-h", "--help"):
            print(overview())
            return 0
        try:
            found = program(name)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return UNUSABLE
    return found(rest)
