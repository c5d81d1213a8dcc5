"""Where a model's files are: the embedded one, a local folder, or the hub (through its client only)."""

from dataclasses import dataclass
from pathlib import Path

from codi_lens.errors import UserError
from codi_lens.toy import TOY_FOLDER


@dataclass(frozen=True)
class Location:
    """A folder with weights, and one with the base model's `config.json` and tokenizer."""

    weights: Path
    base: Path


def locate(name_or_folder: str | Path) -> Location:
    """Finds a model's files.

    Raises:
        UserError: no such folder and no such model.
    """
    folder = TOY_FOLDER if name_or_folder == "toy" else Path(name_or_folder)
    if not folder.is_dir():
        raise UserError(f"no model {str(name_or_folder)!r}: give 'toy', a folder, or a hub id")
    return Location(folder, folder)
