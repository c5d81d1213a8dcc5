"""Iterative patching: single, cumulative, chained and parallel, along the latents of each layer.

    python -m experiments.iterative_patching

asks how much of a patch survives when it may pass on only through the next latent at the same layer
(chained), and what positions add up to (cumulative, parallel). Writes a record and `heatmap.html`, here
trajectories over iterations.
"""

from codi_lens.choices import ANSWERS
from codi_lens.cli import common, sweeping


def main(argv: list[str] | None = None) -> int:
    """Runs the program; exit codes as in `experiments.cli`."""
    parser = common.experiment_parser("iterative_patching", __doc__.splitlines()[0])
    parser.add_argument(
        "--answers", choices=ANSWERS, help="decode (default: all on toy, else the last)"
    )
    parser.add_argument(
        "--activations",
        type=common.path,
        metavar="RUN",
        help="source activations of a position-wise run",
    )
    return common.run_experiment(
        parser, argv, lambda given: sweeping.sweep("iterative_patching", given)
    )
