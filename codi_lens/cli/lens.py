"""What could be read off every layer and step? The logit lens or the tuned lens, with a control.

Reads the known results of every question, those on the way and the answer, off the layers at every step, and off another
question's run at the same place. Prints where each is most readable, and writes `lens.json` and the figures `lens.html`.
A tuned lens is trained, and saved beside them, unless `--lens` names one. Pairs without results on the way give the answer's.
"""

import argparse
from typing import TYPE_CHECKING, Any

from codi_lens.cli import flags
from codi_lens.cli.folders import check_unused, fresh_folder
from codi_lens.cli.model_flags import add_model_flags, load_model
from codi_lens.cli.program import Program
from codi_lens.errors import UserError

if TYPE_CHECKING:
    from codi_lens import HookedCodi, Pair
    from codi_lens.analysis.lenses import HeldOut, LensMap, TunedLens

SAVED = "lens"
"""The folder of a trained lens, in that of the results."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    flags.add_experiment_flags(parser)
    add = parser.add_argument
    which = "the final norm and the unembedding; or behind an affine map that is trained for each layer"
    add("--kind", default="logit", choices=("logit", "tuned"), help=which)
    add("--lens", type=flags.path, metavar="FOLDER", help="a tuned lens, instead of training one")
    taught = "questions that a tuned lens is trained on, but for those of the pairs: a data set as in evaluate"
    add("--data", help=f"{taught} (default: those of the embedded model's or organism's own task)")
    add("--per-step", action="store_true", help="train a map for every layer and step")
    add("--learning-steps", type=int, default=400, help="of each map")
    add_model_flags(parser)


def measure(arguments: argparse.Namespace) -> None:
    """Reads, prints and writes."""
    check_unused(arguments.out)
    if arguments.kind == "logit" and arguments.lens is not None:
        raise UserError("--lens is for a tuned lens; add --kind tuned")
    from codi_lens import load_pairs, plots
    from codi_lens.analysis.lenses import lens_map
    from codi_lens.files import write_json, write_text

    pairs = load_pairs(arguments.pairs)[: arguments.limit]
    codi = load_model(arguments)
    lens, folder = None, None
    if arguments.kind == "tuned":
        lens, seconds = tuned(codi, arguments, pairs)
    found = lens_map(
        codi, pairs, lens=lens, num_latents=arguments.num_latents, seed=arguments.seed
    )
