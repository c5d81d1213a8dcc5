"""Families of checkpoints, one file each; `LAYOUTS` is the registry. A file's keys tell its layout.

base.py says what a layout is. A new one is a file like codi.py and an entry below."""

from codi_lens.checkpoint.layouts.base import Layout
from codi_lens.checkpoint.layouts.codi import CODI
from codi_lens.checkpoint.tensor_files import CheckpointError, TensorFile

__all__ = ["CODI", "LAYOUTS", "Layout", "layout_of"]

LAYOUTS: list[Layout] = [CODI]


def layout_of(file: TensorFile) -> Layout:
    """The layout that most of the file's keys follow.

    Raises:
        CheckpointError: none of those known; says what was found and what each of them needs.
    """
    keys = file.keys()
    best = max(LAYOUTS, key=lambda layout: layout.fits(keys))
    if best.fits(keys):
        return best
    found = ", ".join(map(repr, sorted(keys)[:3])) or "none"
    needed = "; or ".join(
        f"{layout.name}'s, which begin with {' and '.join(layout.prefixes)}" for layout in LAYOUTS
    )
    raise CheckpointError(
        f"{file.path}: found {len(keys)} keys such as {found}; expected the keys of a base model with its "
        f"adapters in a known layout: {needed}"
    )
