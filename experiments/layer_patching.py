"""Layer-wise patching: all latent positions of a layer together, for every layer.

    python -m experiments.layer_patching

is the baseline that position-wise and iterative patching are compared with. Writes a record and
`heatmap.html`, here a profile over layers.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from codi_lens.choices import ANSWERS, MODES
from experiments import cli, sweeping

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from codi_lens import Sweep


def main(argv: list[str] | None = None) -> int:
    """Runs the program; exit codes as in `experiments.cli`."""
    parser = cli.experiment_parser("layer_patching", __doc__.splitlines()[0])
    parser.add_argument("--mode", default="regenerate", choices=MODES)
    parser.add_argument("--controls", default="all", choices=("all", "none"))
    parser.add_argument("--answers", choices=ANSWERS, help="decode (default: all on toy, else top)")
    return cli.run_experiment(parser, argv, patch)


def patch(arguments: argparse.Namespace) -> None:
    """Runs the sweep that the arguments ask for."""
    controls = arguments.controls == "all"
    options = {"mode": arguments.mode, "controls": controls}
    sweeping.sweep("layer_patching", arguments, figures, **options)


def figures(sweep: "Sweep") -> dict[str, "go.Figure"]:
    """Profiles over layers, of recovery and of KL."""
    from codi_lens import plots

    return {
        "recovery": plots.layer_profile({"layer-wise": sweep}, "recovery"),
        "kl": plots.layer_profile({"layer-wise": sweep}, "kl_divergence"),
    }


if __name__ == "__main__":
    sys.exit(main())
