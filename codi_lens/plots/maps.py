"""Maps of sweeps: layer × latent position, layer × iteration, or one column for whole layers."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.aggregates import Aggregate, aggregate, groups, interaction
from codi_lens.analysis.grids import (
    as_grid,
    columns,
    metric_names,
    outlined,
    pairs_behind,
    panels,
    row_text,
    rows,
    threshold,
)
from codi_lens.choices import CONTROLS
from codi_lens.errors import UserError, one_of
from codi_lens.patching.effects import DIRECT, INDIRECT, TOTAL
from codi_lens.patching.experiments.iterative import CHAINED, PARALLEL
from codi_lens.patching.metrics import METRICS
from codi_lens.patching.result import IN_SWEEP, Sweep
from codi_lens.patching.settings import Label
from codi_lens.plots.panels import Panel, draw
from codi_lens.plots.style import label, name_of, panel_title, scope


def heatmap(sweep: Sweep, metric: str | None = None, effect: str | None = None) -> go.Figure:
    """The map of a metric over all pairs: layer × position, or layer × iteration.

    Args:
        sweep: of any experiment.
        metric: any of the sweep's; the one that its experiment shows first if None.
        effect: the first if None.
    """
    metric = metric or sweep.experiment.shows[0]
    name, group = effect or panels(sweep)[0], aggregate(sweep)
    panel = _panel(sweep, group, metric, name)
    what, *more = panel.title.split(": ")
    title = f"{sweep.experiment.heading}: {name_of(metric)}, {what}"
    return _drawn([panel], sweep, group, metric, title, *more)


def heatmap_by_operand(sweep: Sweep, metric: str = "recovery") -> go.Figure:
    """One map per operand that was changed between clean and corrupted, on one colour scale.

    Raises:
        UserError: no pair of the sweep knows its operand.
    """
    parts = {
        name: aggregate(sweep, chosen)
        for name, chosen in groups(sweep).items()
        if name.startswith("operand ")
    }
    if not parts:
        raise UserError("no pair of this sweep says which operand was changed")
    main = panels(sweep)[0]
    drawn = [
        _panel(sweep, group, metric, main, f"{name} changed (n = {pairs_behind(group, metric)})")
        for name, group in parts.items()
    ]
    title = f"By the operand that was changed: {name_of(metric)}"
    return _drawn(drawn, sweep, aggregate(sweep), metric, title, panel_title(main))


def heatmap_by_pair(
    sweep: Sweep, metric: str = "recovery", pairs: Sequence[int] | None = None
) -> go.Figure:
    """One map per pair, on one colour scale. `pairs`: indices into the sweep's; the first 12 if None.

    Raises:
        UserError: no pairs, or one that the sweep does not have.
    """
    known = range(len(sweep.pairs))
    chosen = [one_of(i, known, "pair", IN_SWEEP) for i in (known[:12] if pairs is None else pairs)]
    if not chosen:
        raise UserError("no pairs to draw maps of")
    main, values = panels(sweep)[0], sweep.values(metric)
    zeros = sweep.structural_zeros(main)
    drawn = [
        Panel(
            f"pair {sweep.pairs[i].pair_id}",
            as_grid(values[i], sweep, main),
            rows(sweep)[1],
            columns(sweep)[1],
            zeros,
        )
        for i in chosen
    ]
    title = f"Pair by pair: {name_of(metric)}"
    return _drawn(drawn, sweep, aggregate(sweep), metric, title, panel_title(main))


def heatmaps(sweeps: Mapping[str, Sweep], metric: str = "recovery") -> go.Figure:
    """The main maps of several sweeps (by site, by experiment, by model), on one colour scale.

    Raises:
        UserError: no sweep, or one without the metric.
    """
    if not sweeps:
        raise UserError("no sweeps to draw side by side")
    means = {name: aggregate(sweep) for name, sweep in sweeps.items()}
    drawn = [
        _panel(sweep, means[name], metric, panels(sweep)[0], name) for name, sweep in sweeps.items()
    ]
    counts = ", ".join(f"{name} {pairs_behind(group, metric)}" for name, group in means.items())
    return draw(
        drawn,
        title=f"Side by side: {name_of(metric)}",
        subtitle=f"{label(metric)}; pairs behind each map: {counts}",
        colour=name_of(metric),
        signed=METRICS[metric].signed,
    )


def effects(sweep: Sweep, metric: str = "recovery") -> go.Figure:
    """Total, direct and indirect effect, and the interaction that is left, on one colour scale.

    Raises:
        UserError: the sweep was not run with effect "all", or the metric is none that effects add up in.
    """
    adding = [name for name in metric_names(sweep) if METRICS[name].adds_up]
    one_of(metric, adding, "metric", "that effects add up in")
    group = aggregate(sweep)
    left = interaction(sweep, group, metric)
    if left is None:
        raise UserError(
            f"effects need a sweep with effect='all'; this has {', '.join(panels(sweep))}"
        )
    drawn = [_panel(sweep, group, metric, effect) for effect in (TOTAL, DIRECT, INDIRECT)]
    drawn.append(Panel(panel_title("interaction"), left, rows(sweep)[1], columns(sweep)[1]))
    title = f"Total = direct + indirect + interaction: {name_of(metric)}"
    return _drawn(drawn, sweep, group, metric, title)


def side_by_side(sweep: Sweep, metric: str | None = None) -> go.Figure:
    """A map for every effect that is no control, on one colour scale: routes, windows of layers."""
    metric = metric or sweep.experiment.shows[0]
    group = aggregate(sweep)
    drawn = [_panel(sweep, group, metric, name) for name in panels(sweep) if name not in CONTROLS]
    return _drawn(drawn, sweep, group, metric, f"{sweep.experiment.heading}: {name_of(metric)}")


def chains(sweep: Sweep, metric: str = "recovery") -> go.Figure:
    """Chained patching from every start, a panel a row: where a chain starts × where it has come to.

    Raises:
        UserError: the sweep has no such chains.
    """
    group, steps = aggregate(sweep), sweep.settings.positions
    starts = [name for name in panels(sweep) if name.split()[0] == CHAINED]
    if not starts:
        raise UserError(f"chains need iterative patching; this has {', '.join(panels(sweep))}")
    grids = torch.stack([as_grid(group.means[metric], sweep, name) for name in starts])
    zeros = torch.stack([sweep.structural_zeros(name) for name in starts])
    labels = [name.removeprefix(f"{CHAINED} from ") for name in starts]
    labels[0] = str(steps[0])
    drawn = [
        Panel(row_text(sweep, row), grids[:, i], labels, steps, zeros[:, i])
        for i, row in enumerate(rows(sweep)[1])
    ]
    return draw(
        drawn,
        title=f"Chained patching from every start: {name_of(metric)}",
        subtitle=f"{scope(sweep, group, metric)}; what is left of a patch at the start",
        colour=name_of(metric),
        signed=METRICS[metric].signed,
        axes=("passed on through, to", "start"),
    )


def controls(sweep: Sweep, metric: str | None = None) -> go.Figure:
    """The main map beside what the controls do, on one colour scale.

    Raises:
        UserError: the sweep was run without controls.
    """
    metric = metric or sweep.experiment.shows[0]
    group, (main, *others) = aggregate(sweep), panels(sweep)
    run = [name for name in others if name in CONTROLS]
    if not run:
        raise UserError(f"this sweep was run without controls; it has {', '.join(panels(sweep))}")
    drawn = [_panel(sweep, group, metric, name) for name in (main, *run)]
    return _drawn(drawn, sweep, group, metric, f"Beside the controls: {name_of(metric)}")


def chained_minus_parallel(sweep: Sweep, metric: str = "recovery") -> go.Figure:
    """Iterative patching: each chained iteration minus all positions at once, at the same layer."""
    group = aggregate(sweep)
    chained, parallel = (as_grid(group.means[metric], sweep, name) for name in (CHAINED, PARALLEL))
    subtitle = f"{scope(sweep, group, metric)}; parallel patches all positions at once"
    return difference(
        chained,
        parallel[:, -1:].expand_as(chained),
        layers=rows(sweep)[1],
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


def _drawn(
    drawn: Sequence[Panel], sweep: Sweep, group: Aggregate, metric: str, title: str, *more: str
) -> go.Figure:
    """Maps of one sweep; `more` goes into the subtitle."""
    return draw(
        drawn,
        title=title,
        subtitle="; ".join((scope(sweep, group, metric), *more)),
        colour=name_of(metric),
        signed=METRICS[metric].signed,
        axes=(columns(sweep)[0], rows(sweep)[0]),
    )


def _panel(
    sweep: Sweep, group: Aggregate, metric: str, name: str, title: str | None = None
) -> Panel:
    values = as_grid(group.means[metric], sweep, name)
    return Panel(
        panel_title(name) if title is None else title,
        values,
        rows(sweep)[1],
        columns(sweep)[1],
        sweep.structural_zeros(name) & torch.isfinite(values),
        outlined(sweep, group, metric, name),
        threshold(sweep, group, metric),
        _hover(sweep, group, metric, name),
        across=columns(sweep)[0],
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
            f"{row_text(sweep, layer)}, {axis} {step}<br>{metric}: {mean[i][j]:.4f}"
            f" [{low[i][j]:.4f}, {high[i][j]:.4f}]<br>KL: {kl[i][j]:.4f}"
            f"<br>flipped: {flipped[i][j]:.0%}<br>n = {pairs_behind(group, metric)}"
            for j, step in enumerate(steps)
        ]
        for i, layer in enumerate(rows(sweep)[1])
    ]
