"""Which thoughts depend on which earlier ones? Influence of thoughts.

Exchanges one thought of the clean run (by itself for the mean over the questions) and compares the later thoughts, and
the answer. Writes a record and `heatmap.html`. Answers after fewer thoughts are what `necessity` measures.
"""

import argparse

from codi_lens.cli.patching import (
    add_control_flag,
    add_position_flag,
    add_put_in_flags,
    patching_program,
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that this experiment has."""
    add_position_flag(parser)
    add_put_in_flags(parser, "mean")
    add_control_flag(parser)


main = patching_program("influence", __doc__, add_flags, "noise")
