"""What is worth seeing of each experiment, beside its maps."""

import plotly.graph_objects as go

from codi_lens.outcomes import Sweep
from codi_lens.plots.maps import chained_minus_parallel, effects, heatmap_by_operand
from codi_lens.plots.profiles import layer_profile, trajectories

TRAJECTORIES = ("recovery", "kl_divergence", "similarity_to_clean", "bias", "restored")


def gallery(sweep: Sweep) -> dict[str, go.Figure]:
    """The figures of a sweep beside its maps, by name."""
    drawn: dict[str, go.Figure] = {}
    if sweep.experiment == "iterative_patching":
        drawn |= {name: trajectories(sweep, name) for name in TRAJECTORIES}
        drawn["chained-minus-parallel"] = chained_minus_parallel(sweep)
    if sweep.experiment != "position_patching":
        drawn["profile"] = layer_profile({sweep.experiment: sweep})
    elif any(pair.operand for pair in sweep.pairs):
        drawn["by-operand"] = heatmap_by_operand(sweep)
    if sweep.settings.mode == "all" and sweep.experiment != "iterative_patching":
        drawn["effects"] = effects(sweep)
    return drawn
