"""What is worth seeing of each experiment."""

from collections.abc import Collection, Mapping

import plotly.graph_objects as go
from torch import Tensor

from codi_lens.analysis.grids import panels
from codi_lens.choices import CONTROLS
from codi_lens.patching.effects import DIRECT, INDIRECT, TOTAL
from codi_lens.patching.metrics import METRICS
from codi_lens.patching.result import Sweep
from codi_lens.plots.maps import (
    chained_minus_parallel,
    chains,
    controls,
    effects,
    heatmap,
    heatmap_by_operand,
    side_by_side,
)
from codi_lens.plots.panels import on_one_scale
from codi_lens.plots.profiles import layer_profile, trajectories
from codi_lens.plots.style import name_of

TRAJECTORIES = ("recovery", "kl_divergence", "similarity_to_clean", "bias", "restored")


def gallery(sweep: Sweep) -> dict[str, go.Figure]:
    """The figures of a sweep, by name; its maps of one metric are on one colour scale."""
    experiment = sweep.experiment
    first, *others = experiment.shows
    if experiment.iterates:
        drawn = {f"trajectories-{name}": trajectories(sweep, name) for name in TRAJECTORIES}
        drawn["chained-minus-parallel"] = chained_minus_parallel(sweep)
        if sweep.settings.starts:
            drawn["chains"] = chains(sweep)
        drawn["profile"] = layer_profile({experiment.name: sweep})
        return drawn
    maps, has_columns = {}, len(experiment.cell_names) > 1
    if has_columns:
        maps[short_name(first)] = heatmap(sweep)
    effects_of_all = {TOTAL, DIRECT, INDIRECT} <= set(sweep.axes["effect"])
    if effects_of_all:
        maps["effects"] = effects(sweep)
    elif len(set(panels(sweep)) - set(CONTROLS)) > 1:
        maps["side-by-side"] = side_by_side(sweep)
    if has_columns and any(pair.operand for pair in sweep.pairs):
        maps["by-operand"] = heatmap_by_operand(sweep, first)
    if sweep.settings.controls:
        maps["controls"] = controls(sweep)
    on_one_scale(maps.values(), signed=METRICS[first].signed)
    if has_columns:
        return maps | {short_name(metric): heatmap(sweep, metric) for metric in others}
    profiles = {short_name(m): layer_profile({experiment.name: sweep}, m) for m in experiment.shows}
    return profiles | maps


def short_name(metric: str) -> str:
    """A metric in the name of a figure."""
    return "kl" if metric == "kl_divergence" else metric.replace("_", "-")


def scales(
    means: Mapping[str, Collection[Tensor]], drawn: Collection[go.Figure]
) -> dict[str, tuple[float, float]]:
    """The colours' range of each metric that holds all its means, and what is drawn of it.

    Args:
        means: metric -> means, of any shape.
        drawn: figures; the maps among them get the range of their metric.
    """
    found = {}
    for metric, own in means.items():
        bar = name_of(metric)
        maps = [figure for figure in drawn if figure.layout.coloraxis.colorbar.title.text == bar]
        found[metric] = on_one_scale(maps, own, signed=METRICS[metric].signed)
    return found
