"""Folders for results: fresh ones, and what a used one may be."""

from datetime import datetime
from pathlib import Path

from codi_lens.cli.resuming import way_on
from codi_lens.errors import UserError


def fresh_folder(asked: Path | None, name: str) -> Path:
    """Makes the folder for a run's results.

    Raises:
        UserError: it has something in it, or cannot be made.
    """
    folder = asked or Path("results") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        if asked is None:
            return _made_here(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
    check_unused(folder)
    return folder


def _made_here(folder: Path, number: int = 1) -> Path:
    """Makes a folder of this name, with a number where another program has just made that."""
    made = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
    try:
        made.mkdir(parents=True)
    except FileExistsError:
        return _made_here(folder, number + 1)
    return made


def check_unused(folder: Path | None) -> None:
    """Refuses a folder that has something in it; one that is not there is fine."""
    if folder is None:
        return
    try:
        used = folder.exists() and any(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot use the folder {folder}: {error.strerror}") from error
    if used:
        way = way_on(folder)
        hint = f", or go on with the run in it:\n  {way}" if way else ""
        raise UserError(f"the folder {folder} is not empty; give a fresh one as --out{hint}")
