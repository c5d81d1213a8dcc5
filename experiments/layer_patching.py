"""Layer-wise patching: all latent positions of a layer together, for every layer.

    python -m experiments.layer_patching

is the baseline that position-wise and iterative patching are compared with. Writes a record and
`heatmap.html`, here a profile over layers.
"""

import sys
from typing import TYPE_CHECKING

from experiments import sweeping

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from codi_lens import Sweep


def main(argv: list[str] | None = None) -> int:
    """Runs the program; exit codes as in `experiments.cli`."""
    return sweeping.run_with_variants("layer_patching", __doc__.splitlines()[0], figures, argv)


def figures(sweep: "Sweep") -> dict[str, "go.Figure"]:
    """Profiles over layers, of recovery and of KL."""
    from codi_lens import plots

    return {
        "recovery": plots.layer_profile({"layer-wise": sweep}, "recovery"),
        "kl": plots.layer_profile({"layer-wise": sweep}, "kl_divergence"),
    }


if __name__ == "__main__":
    sys.exit(main())
