"""Through which receiver does a sender act? Path patching.

Exchanges a head or an MLP at one step, holds all others, and puts what a receiver then reads into an otherwise
unpatched run. Writes a record and `heatmap.html`, a matrix of senders and receivers. To go backwards from a cell of
a map, name it as the receiver: `--receivers 2@3` is layer 2 at latent 3.
"""

import argparse

from codi_lens.choices import EFFECTS
from codi_lens.cli.flags import names
from codi_lens.cli.patching import (
    add_effect_flag,
    add_position_flag,
    add_put_in_flags,
    patching_program,
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that this experiment has."""
    add = parser.add_argument
    senders = "such as 2.1@3 (head 1 of layer 2 at latent 3) or mlp2@3 (default: all heads and MLPs at --positions)"
    add("--senders", type=names, default=(), help=senders)
    receivers = "such as 2.1.q@3 (a head's query), 2.kv0.k@3 or 2.kv0.v@3 (as all later steps read them), 2.1.v@3>5 (as "
    receivers += "head 1 reads it at latent 5), mlp2@3, thought@4, logits (default: all thoughts and the logits)"
    add("--receivers", type=names, default=(), help=receivers)
    add_position_flag(parser)
    add("--site", default="resid_post", help="what a layer is, as a sender or receiver")
    add_put_in_flags(parser)
    add_effect_flag(parser, EFFECTS[:2])


main = patching_program("path_patching", __doc__, add_flags)
