"""Families of checkpoints; `LAYOUTS` is the registry. A file's keys tell its layout.

base.py says what a layout is. A new one is a file like codi.py and an entry below."""

from codi_lens.checkpoint.layouts.base import Layout
from codi_lens.checkpoint.layouts.coconut import COCONUT
from codi_lens.checkpoint.layouts.codi import CODI, CODI_MERGED
from codi_lens.checkpoint.layouts.separate import ADAPTER, MERGED, PLAIN, PROJECTOR
from codi_lens.checkpoint.tensor_files import CheckpointError, TensorFile

__all__ = ["COCONUT", "CODI", "LAYOUTS", "Layout", "layout_of"]

LAYOUTS: list[Layout] = [CODI, CODI_MERGED, COCONUT, ADAPTER, MERGED, PROJECTOR, PLAIN]


def layout_of(file: TensorFile) -> Layout:
    """The layout that most of the file's keys follow.

    Raises:
        CheckpointError: none of those known; says what was found, what each needs, and which is nearest.
    """
    keys = file.keys()
    best = max(LAYOUTS, key=lambda layout: layout.fits(keys))
    if best.fits(keys):
        return best
    found = ", ".join(map(repr, sorted(keys)[:3])) or "none"
    needed = "; ".join(f"{layout.name}: {layout.needs}" for layout in LAYOUTS)
    raise CheckpointError(
        f"{file.path}: found {len(keys)} keys such as {found}, which are in no known layout "
        f"({needed}){_nearest(keys)}"
    )


def _nearest(keys: list[str]) -> str:
    """The layout whose own prefixes stand inside the most keys."""

    def inside(layout: Layout) -> int:
        return sum(any(prefix in key for prefix in layout.prefixes) for key in keys)

    nearest = max(LAYOUTS, key=inside)
    if not inside(nearest):
        return ""
    return (
        f"; nearest is {nearest.name}, whose prefixes are inside {inside(nearest)} of the keys: take off what "
        "stands in front of them"
    )
