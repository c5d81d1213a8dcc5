"""How much of a patch survives from thought to thought? Iterative patching.

Along the latents of each layer, patches single positions; more and more of them (cumulative); only what the
previous patch left at the next position (chained); and all at once (parallel). Writes a record and
`heatmap.html`, here trajectories over iterations.
"""

import argparse

from codi_lens.cli.flags import path
from codi_lens.cli.patching import patching_program


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flag that this experiment alone has."""
    activations = "a position-wise run whose source activations to use (default: the model's own)"
    parser.add_argument("--activations", type=path, metavar="RUN", help=activations)


main = patching_program("iterative_patching", __doc__, add_flags)
