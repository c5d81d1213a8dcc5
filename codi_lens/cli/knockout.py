"""Which steps must attend to which others? Attention knockout.

Blocks, in the clean run, attention from every step to every earlier one: the question, bot, each latent. Writes a record
and `heatmap.html`.
"""

import argparse

from codi_lens.cli.patching import add_layer_flag, add_window_flag, patching_program


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that this experiment has."""
    add_layer_flag(parser, "in which attention is blocked")
    add_window_flag(parser)


main = patching_program("knockout", __doc__, add_flags, "noise")
