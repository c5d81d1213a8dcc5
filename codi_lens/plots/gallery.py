"""What is worth seeing of each experiment."""

from collections.abc import Collection, Mapping

import plotly.graph_objects as go

from codi_lens.analysis.aggregates import Aggregate
from codi_lens.patching.effects import DIRECT, INDIRECT, TOTAL
from codi_lens.patching.metrics import METRICS
from codi_lens.patching.result import Sweep
from codi_lens.plots.maps import (
    chained_minus_parallel,
    controls,
    effects,
    heatmap,
    heatmap_by_operand,
)
from codi_lens.plots.panels import on_one_scale
from codi_lens.plots.profiles import layer_profile, trajectories
from codi_lens.plots.style import name_of

FIRST = ("recovery", "kl")
"""The figures to begin with: maps, or profiles of whole layers."""
TRAJECTORIES = ("recovery", "kl_divergence", "similarity_to_clean", "bias", "restored")


def gallery(sweep: Sweep) -> dict[str, go.Figure]:
    """The figures of a sweep, by name; all its maps of recovery are on one colour scale."""
    experiment = sweep.experiment
    if experiment.iterates:
        drawn = {f"trajectories-{name}": trajectories(sweep, name) for name in TRAJECTORIES}
        drawn["chained-minus-parallel"] = chained_minus_parallel(sweep)
        drawn["profile"] = layer_profile({experiment.name: sweep})
        return drawn
    maps, has_columns = {}, len(experiment.cell_names) > 1
    if has_columns:
        maps["recovery"] = heatmap(sweep)
    if {TOTAL, DIRECT, INDIRECT} <= set(sweep.axes["effect"]):
        maps["effects"] = effects(sweep)
    if has_columns and any(pair.operand for pair in sweep.pairs):
        maps["by-operand"] = heatmap_by_operand(sweep)
    if sweep.settings.controls:
        maps["controls"] = controls(sweep)
    on_one_scale(maps.values())
    if has_columns:
        return maps | {"kl": heatmap(sweep, "kl_divergence")}
    profiles = [layer_profile({experiment.name: sweep}, m) for m in ("recovery", "kl_divergence")]
    return dict(zip(FIRST, profiles, strict=True)) | maps


def scales(
    grouped: Mapping[str, Mapping[str, Aggregate]], drawn: Collection[go.Figure]
) -> dict[str, tuple[float, float]]:
    """The colours' range of each metric that holds the means of all runs, and what is drawn of it.

    Args:
        grouped: run -> group of pairs -> its means.
        drawn: figures; the maps among them get the range of their metric.
    """
    means = [group.means for run in grouped.values() for group in run.values()]
    found = {}
    for metric in {name: None for values in means for name in values}:
        bar = name_of(metric)
        maps = [figure for figure in drawn if figure.layout.coloraxis.colorbar.title.text == bar]
        own = [values[metric] for values in means if metric in values]
        found[metric] = on_one_scale(maps, own, signed=METRICS[metric].signed)
    return found
