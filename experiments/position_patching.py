"""Position-wise patching: a heatmap of which (layer, latent position) carries the computation.

    python -m experiments.position_patching

patches, for every pair, the clean run's activation into the corrupted run at one layer and one position at a
time, and measures what the answer gains. Writes a record and `heatmap.html`.
"""

import sys
from typing import TYPE_CHECKING

from experiments import sweeping

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from codi_lens import Sweep


def main(argv: list[str] | None = None) -> int:
    """Runs the program; exit codes as in `experiments.cli`."""
    return sweeping.run_with_variants("position_patching", __doc__.splitlines()[0], figures, argv)


def figures(sweep: "Sweep") -> dict[str, "go.Figure"]:
    """The maps of `heatmap.html`: over all pairs, per operand, KL, other variants."""
    from codi_lens import plots

    drawn = {"recovery": plots.heatmap(sweep, "recovery")}
    if any(pair.operand for pair in sweep.pairs):
        drawn["by-operand"] = plots.heatmap_by_operand(sweep, "recovery")
    drawn["kl"] = plots.heatmap(sweep, "kl_divergence")
    for variant in sweep.settings.variants[1:]:
        drawn[variant] = plots.heatmap(sweep, "recovery", variant)
    return drawn


if __name__ == "__main__":
    sys.exit(main())
