"""Iterative patching: single, cumulative, chained and parallel, along the latents of each layer.

    python -m experiments.iterative_patching

asks how much of a patch survives when it may pass on only through the next latent at the same layer
(chained), and what positions add up to (cumulative, parallel). Writes a record and `heatmap.html`, here
trajectories over iterations.
"""

import sys
from typing import TYPE_CHECKING

from codi_lens.choices import ANSWERS
from experiments import cli, sweeping

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from codi_lens import Sweep


def main(argv: list[str] | None = None) -> int:
    """Runs the program; exit codes as in `experiments.cli`."""
    parser = cli.experiment_parser("iterative_patching", __doc__.splitlines()[0])
    parser.add_argument(
        "--answers", choices=ANSWERS, help="decode (default: all on toy, else the last)"
    )
    parser.add_argument(
        "--activations",
        type=cli.path,
        metavar="RUN",
        help="source activations of a position-wise run",
    )
    return cli.run_experiment(
        parser, argv, lambda given: sweeping.sweep("iterative_patching", given, figures)
    )


def figures(sweep: "Sweep") -> dict[str, "go.Figure"]:
    """Trajectories of recovery, of KL and of what was restored, and the profile at the end."""
    from codi_lens import plots

    metrics = ("recovery", "kl_divergence", "restored", "bias")
    drawn = {metric: plots.trajectories(sweep, metric) for metric in metrics}
    drawn["profile"] = plots.layer_profile({"": sweep}, "recovery")
    return drawn


if __name__ == "__main__":
    sys.exit(main())
