"""Maps of sweeps: layer × latent position, layer × iteration, or one column for whole layers."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.aggregates import Aggregate, aggregate, groups, interaction
from codi_lens.grids import (
    as_grid,
    columns,
    outlined,
    pairs_behind,
    panels,
    structural_zeros,
    threshold,
)
from codi_lens.outcomes import Sweep
from codi_lens.plans import Label
from codi_lens.plots.panels import Panel, draw
from codi_lens.plots.style import EXPERIMENTS, PANEL_TITLES, SIGNED, label, name_of, scope


def heatmap(sweep: Sweep, metric: str = "recovery", variant: str | None = None) -> go.Figure:
    """The map of a metric over all pairs: layer × position, or layer × iteration.

    Args:
        sweep: of any experiment.
        metric: any of the sweep's.
        variant: or strategy; the first if None.
    """
    name, group = variant or panels(sweep)[0], aggregate(sweep)
    subtitle = f"{scope(sweep, group, metric)}; {PANEL_TITLES[name]}"
    return draw(
        [_panel(sweep, group, metric, name)],
        title=f"{EXPERIMENTS[sweep.experiment].capitalize()} patching: {name_of(metric)}",
        subtitle=f"{subtitle}; {_legend(sweep, group, metric, name)}".removesuffix("; "),
        colour=name_of(metric),
        signed=metric in SIGNED,
        axes=(columns(sweep)[0], "layer"),
    )


def heatmap_by_operand(sweep: Sweep, metric: str = "recovery") -> go.Figure:
    """One map per operand that was changed between clean and corrupted, on one colour scale.

    Raises:
        ValueError: no pair of the sweep knows its operand.
    """
    parts = {
        name: aggregate(sweep, chosen)
        for name, chosen in groups(sweep).items()
        if name.startswith("operand ")
    }
    if not parts:
        raise ValueError("no pair of this sweep says which operand was changed")
    main = panels(sweep)[0]
    drawn = [
        _panel(sweep, group, metric, main, f"{name} changed (n = {pairs_behind(group, metric)})")
        for name, group in parts.items()
    ]
    title = f"By the operand that was changed: {name_of(metric)}"
    return _on_one_scale(drawn, sweep, aggregate(sweep), metric, title)


def heatmap_by_pair(
    sweep: Sweep, metric: str = "recovery", pairs: Sequence[int] | None = None
) -> go.Figure:
    """One map per pair, on one colour scale. `pairs`: indices into the sweep's; the first 12 if None."""
    chosen = list(range(min(12, len(sweep.pairs)))) if pairs is None else list(pairs)
    main, values = panels(sweep)[0], sweep.values(metric)
    zeros = structural_zeros(sweep, main)
    drawn = [
        Panel(
            f"pair {sweep.pairs[i].pair_id}",
            as_grid(values[i], sweep, main),
            sweep.settings.layers,
            columns(sweep)[1],
            zeros,
        )
        for i in chosen
    ]
    return _on_one_scale(drawn, sweep, aggregate(sweep), metric, f"Pair by pair: {name_of(metric)}")


def heatmaps(sweeps: Mapping[str, Sweep], metric: str = "recovery") -> go.Figure:
    """The main maps of several sweeps (by site, by experiment, by model), on one colour scale."""
    means = {name: aggregate(sweep) for name, sweep in sweeps.items()}
    drawn = [
        _panel(sweep, means[name], metric, panels(sweep)[0], name) for name, sweep in sweeps.items()
    ]
    counts = ", ".join(f"{name} {pairs_behind(group, metric)}" for name, group in means.items())
    return draw(
        drawn,
        title=f"Side by side: {name_of(metric)}",
        subtitle=f"{label(metric)}; pairs behind each map: {counts}; outlined: the five largest cells of each",
        colour=name_of(metric),
        signed=metric in SIGNED,
    )


def effects(sweep: Sweep, metric: str = "recovery") -> go.Figure:
    """Total, direct and indirect effect, and the interaction that is left, on one colour scale.

    Raises:
        ValueError: the sweep was not run in mode "all", or the metric is none that effects add up in.
    """
    group = aggregate(sweep)
    left = interaction(sweep, group, metric)
    if left is None:
        raise ValueError(f"effects of {metric!r} need a sweep in mode 'all' and a signed metric")
    names = {
        "total": "regenerate",
        "direct (attention)": "freeze",
        "indirect (thoughts)": "thoughts",
    }
    drawn = [_panel(sweep, group, metric, variant, name) for name, variant in names.items()]
    rest = left if left.dim() == 2 else left[:, None]
    drawn.append(Panel("interaction", rest, sweep.settings.layers, columns(sweep)[1]))
    title = f"Total = direct + indirect + interaction: {name_of(metric)}"
    return _on_one_scale(drawn, sweep, group, metric, title)


def chained_minus_parallel(sweep: Sweep, metric: str = "recovery") -> go.Figure:
    """Iterative patching: each chained iteration minus all positions at once, at the same layer."""
    group = aggregate(sweep)
    chained, parallel = (
        as_grid(group.means[metric], sweep, name) for name in ("chained", "parallel")
    )
    subtitle = f"{scope(sweep, group, metric)}; parallel patches all positions at once"
    return difference(
        chained,
        parallel[:, -1:].expand_as(chained),
        layers=sweep.settings.layers,
        positions=columns(sweep)[1],
        title=f"Chained − parallel: {name_of(metric)}",
        subtitle=subtitle,
        axis="iteration",
    )


def difference(
    first: Float[Tensor, "layer position"],
    second: Float[Tensor, "layer position"],
    *,
    layers: Sequence[Label],
    positions: Sequence[Label],
    title: str,
    subtitle: str = "",
    axis: str = "latent position",
) -> go.Figure:
    """A map of first − second, diverging around zero."""
    panel = Panel("", first - second, layers, positions)
    return draw(
        [panel],
        title=title,
        subtitle=subtitle,
        colour="difference",
        signed=True,
        axes=(axis, "layer"),
    )


def _on_one_scale(
    drawn: Sequence[Panel], sweep: Sweep, group: Aggregate, metric: str, title: str
) -> go.Figure:
    zeros = any(panel.zeros is not None and bool(panel.zeros.any()) for panel in drawn)
    subtitle = scope(sweep, group, metric) + ("; hatched: zero by construction" if zeros else "")
    return draw(
        drawn,
        title=title,
        subtitle=subtitle,
        colour=name_of(metric),
        signed=metric in SIGNED,
        axes=(columns(sweep)[0], "layer"),
    )


def _legend(sweep: Sweep, group: Aggregate, metric: str, name: str) -> str:
    """What the marks of a map mean; "" where it has none."""
    parts = []
    if outlined(sweep, group, metric, name):
        donor = threshold(sweep, group, metric)
        above = "" if donor is None else f" above the donor control's largest, {donor:.3g}"
        parts.append(f"outlined: the five largest{above}")
    if structural_zeros(sweep, name).any():
        parts.append("hatched: zero by construction")
    return "; ".join(parts)


def _panel(
    sweep: Sweep, group: Aggregate, metric: str, name: str, title: str | None = None
) -> Panel:
    values = as_grid(group.means[metric], sweep, name)
    return Panel(
        PANEL_TITLES[name] if title is None else title,
        values,
        sweep.settings.layers,
        columns(sweep)[1],
        structural_zeros(sweep, name) & torch.isfinite(values),
        outlined(sweep, group, metric, name),
        _hover(sweep, group, metric, name),
    )


def _hover(sweep: Sweep, group: Aggregate, metric: str, name: str) -> list[list[str]]:
    """Mean, interval, KL, flip rate and n of every cell."""
    tables = (group.means[metric], group.low[metric], group.high[metric])
    mean, low, high = (as_grid(table, sweep, name).tolist() for table in tables)
    kl, flipped = (
        as_grid(group.means[other], sweep, name).tolist() for other in ("kl_divergence", "flipped")
    )
    axis, steps = columns(sweep)
    return [
        [
            f"layer {layer}, {axis} {step}<br>{metric}: {mean[i][j]:.4f}"
            f" [{low[i][j]:.4f}, {high[i][j]:.4f}]<br>KL: {kl[i][j]:.4f}"
            f"<br>flipped: {flipped[i][j]:.0%}<br>n = {pairs_behind(group, metric)}"
            for j, step in enumerate(steps)
        ]
        for i, layer in enumerate(sweep.settings.layers)
    ]
