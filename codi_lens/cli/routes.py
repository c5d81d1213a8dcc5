"""By which route does a thought reach the answer: fed on as a state, or attended to as keys and values?

Exchanges, for every pair and every latent, only the state, the keys, the values, both, or all; at one latent, and from
it to the last. Writes a record and `heatmap.html`.
"""

import argparse

from codi_lens.choices import ROUTE_VALUES
from codi_lens.cli.patching import (
    add_control_flag,
    add_layer_flag,
    add_position_flag,
    add_window_flag,
    patching_program,
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that this experiment has."""
    add_layer_flag(parser, "whose keys and values are exchanged")
    add_position_flag(parser)
    add_window_flag(parser)
    whose = "whose activations: the source run's, or those of the base run with the source's thought fed at the latent"
    parser.add_argument("--values", default=ROUTE_VALUES[0], choices=ROUTE_VALUES, help=whose)
    add_control_flag(parser)


main = patching_program("routes", __doc__, add_flags)
