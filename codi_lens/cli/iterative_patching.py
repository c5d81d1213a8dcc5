"""How much of a patch survives from thought to thought? Iterative patching.

Along the latents of each layer, patches single positions; more and more of them (cumulative); only what the
previous patch left at the next position (chained); and all at once (parallel). Writes a record and
`heatmap.html`, here trajectories over iterations.
"""

import argparse

from codi_lens.cli.flags import labels, path
from codi_lens.cli.patching import add_place_flags, add_put_in_flags, patching_program


def starts(text: str) -> tuple[int | str, ...] | None:
    """Parses "all", or a list of positions."""
    return None if text == "all" else labels(text)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that this experiment alone has."""
    add_place_flags(parser)
    add_put_in_flags(parser)
    where = "positions at which chains start: all, or a list; the first is always one (default: it alone)"
    parser.add_argument("--starts", type=starts, default=(), help=where)
    activations = "a position-wise run whose source activations to use (default: the model's own)"
    parser.add_argument("--activations", type=path, metavar="RUN", help=activations)


main = patching_program("iterative_patching", __doc__, add_flags)
