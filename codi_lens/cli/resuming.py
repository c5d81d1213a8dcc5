"""Going on with a run: its flags, as its journal knows them, and when to advise it."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codi_lens.cli.flags import OWN_OF_A_CALL
from codi_lens.data.datasets import NAMES
from codi_lens.errors import UserError, command
from codi_lens.files import expand
from codi_lens.records.stopping import Interrupted

PATHS = ("model", "base", "projection", "codi_config", "pairs", "data", "activations")
"""Arguments that may be paths, and then mean a place seen from the folder that the program was called in."""
BUILT_IN = ("toy", *NAMES)


def resumed(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments of the run that --resume names; without it, `arguments` themselves.

    Raises:
        UserError: nothing to resume there, a run that no program began, one of another experiment, or a
            flag that says otherwise.
    """
    if arguments.resume is None:
        return arguments
    header = _header(arguments.resume, parser.prog)
    there = parser.parse_args(header["arguments"])
    working_folder = header.get("working_folder", os.getcwd())
    if working_folder != os.getcwd():
        there = _located(there, working_folder)
    there.out = arguments.resume
    for name in OWN_OF_A_CALL:
        setattr(there, name, getattr(arguments, name))
    there.given = header["arguments"]
    # What was not given now keeps the mark that stood in its place.
    absent = object()
    marked = argparse.Namespace(**dict.fromkeys(vars(arguments), absent))
    here = vars(_located(parser.parse_args(arguments.given, marked), os.getcwd()))
    meant = vars(_located(there, working_folder))
    differing = [
        f"--{name.replace('_', '-')} (there {meant[name]}, here {value})"
        for name, value in here.items()
        if name not in OWN_OF_A_CALL and value is not absent and value != meant[name]
    ]
    if differing:
        raise UserError(f"{arguments.resume} cannot be resumed: {'; '.join(differing)}")
    return there


def _header(folder: Path, program: str) -> dict[str, Any]:
    """What the journal in `folder` says of a run that this program began."""
    from codi_lens.records.journal_file import read_header

    header = read_header(folder)
    if "arguments" not in header:
        raise UserError(
            f"{folder} was not begun by a program; call codi_lens.records.run as it was called then, and "
            "it goes on"
        )
    if (other := command(header["experiment"])) != program:
        raise UserError(f"{folder} is of another experiment; resume it with {other}")
    return header


def _located(arguments: argparse.Namespace, working_folder: str) -> argparse.Namespace:
    """With absolute paths; what is no path from `working_folder` stays as it is, such as a hub id."""
    located = argparse.Namespace(**vars(arguments))
    for name in PATHS:
        value: Any = getattr(arguments, name, None)
        if isinstance(value, (str, Path)) and value not in BUILT_IN:
            path = working_folder / expand(value)
            if path.exists():
                setattr(located, name, type(value)(path.resolve()))
    return located


def way_on(folder: Path) -> str | None:
    """The command that goes on with the run in a folder, if there is one that can go on."""
    from codi_lens.records.journal_file import read_header
    from codi_lens.records.running import is_finished

    try:
        header = read_header(folder)
        if "arguments" not in header or is_finished(folder):
            return None
        return command(header["experiment"], "--resume", folder)
    except (UserError, OSError):
        return None


@contextmanager
def hint(folder: Path) -> Iterator[None]:
    """Adds how to go on to what goes wrong inside, unless it would go wrong again."""
    try:
        yield
    except (UserError, Interrupted):
        raise
    except Exception as error:
        if way := way_on(folder):
            error.add_note(f"what is finished is kept; go on with\n  {way}")
        raise
    except KeyboardInterrupt as stop:
        way = way_on(folder)
        raise Interrupted(
            f"interrupted; go on with\n  {way}" if way else "interrupted; the record is finished"
        ) from stop
