"""Sweeps as lines and points: profiles over layers, trajectories over iterations, cells of two runs."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots
from torch import Tensor

from codi_lens.analysis.aggregates import Aggregate, aggregate
from codi_lens.analysis.comparison import rank_correlation
from codi_lens.analysis.grids import as_grid, pairs_behind, panels, what_cells_are
from codi_lens.errors import UserError
from codi_lens.patching.experiments.iterative import PARALLEL, STRATEGIES
from codi_lens.patching.result import Sweep
from codi_lens.patching.settings import Label
from codi_lens.plots.style import (
    PALETTE,
    SEQUENTIAL,
    SYMBOLS,
    headed,
    lined,
    name_of,
    scope,
)


def layer_profile(sweeps: Mapping[str, Sweep], metric: str = "recovery") -> go.Figure:
    """Per-layer profiles with 95% intervals: a layer-wise sweep as it is, a map by its largest cell.

    An iterative sweep gives one line per strategy, at the last iteration.

    Raises:
        UserError: no sweeps, or one without the metric.
    """
    if not sweeps:
        raise UserError("no sweeps to draw profiles of")
    labels = list(dict.fromkeys(str(la) for s in sweeps.values() for la in s.axes["row"]))
    figure = go.Figure()
    for name, sweep in sweeps.items():
        group = aggregate(sweep)
        title = sweep.experiment.title
        for line, cells in sweep.experiment.lines(group.means[metric], sweep.axes).items():
            number = len(figure.data)
            # Side by side, so that intervals do not hide each other.
            places = [labels.index(str(la)) + 0.06 * number for la in sweep.axes["row"]]
            figure.add_trace(_profile(sweep, group, metric, cells)).update_traces(
                selector=number,
                x=places,
                name=f"{title}, {line}" if name == sweep.experiment.name else f"{name}: {line}",
                line_color=PALETTE[number % len(PALETTE)],
                marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 8},
            )
    count, first = len(figure.data), next(iter(sweeps.values()))
    ticks = [i + 0.03 * (count - 1) for i in range(len(labels))]
    figure.update_layout(
        xaxis={"title": "layer", "tickvals": ticks, "ticktext": labels},
        yaxis={"title": name_of(metric), "rangemode": "tozero"},
        margin={"l": 84, "r": 24, "b": 58},
        legend={"x": 1.02, "y": 1},
        showlegend=count > 1,
    )
    subtitle = f"{scope(first, aggregate(first), metric)}; bars: 95% bootstrap intervals over pairs"
    title, width = f"Layer by layer: {name_of(metric)}", 560 + 260 * (count > 1)
    return headed(lined(figure), title, subtitle, width=width, body=330)


def _profile(
    sweep: Sweep, group: Aggregate, metric: str, cells: Sequence[tuple[int, ...]]
) -> go.Scatter:
    """A line through one cell of each layer, with its interval."""
    middle, low, high = (
        torch.stack([table[metric][cell] for cell in cells])
        for table in (group.means, group.low, group.high)
    )
    return go.Scatter(
        y=middle.tolist(),
        text=[str(layer) for layer in sweep.axes["row"]],
        customdata=_intervals(low, high),
        mode="lines+markers",
        error_y={
            "type": "data",
            "array": (high - middle).tolist(),
            "arrayminus": (middle - low).tolist(),
            "thickness": 1,
        },
        hovertemplate="layer %{text}: %{y:.4f} [%{customdata}]"
        f"<br>n = {pairs_behind(group, metric)}",
    )


def _intervals(low: Float[Tensor, "..."], high: Float[Tensor, "..."]) -> list[str]:
    """The bounds of each point's interval, as text for its hover."""
    return [f"{a:.4f}, {b:.4f}" for a, b in zip(low.tolist(), high.tolist(), strict=True)]


def trajectories(sweep: Sweep, metric: str = "recovery") -> go.Figure:
    """Iterative patching: a metric or similarity against the iteration, one line per layer.

    One panel per strategy that has iterations; a dashed line marks what `parallel` reaches at the layer.

    Raises:
        UserError: the sweep is of another experiment, or lacks the metric.
    """
    group = aggregate(sweep)
    level = as_grid(group.means[metric], sweep, PARALLEL)[:, -1].tolist()
    strategies = [name for name in STRATEGIES if name != PARALLEL]
    figure = make_subplots(
        1, len(strategies), subplot_titles=strategies, shared_yaxes=True, horizontal_spacing=0.03
    )
    colours = _shades(len(level))
    for column, strategy in enumerate(strategies, start=1):
        for i, line in enumerate(_trajectories(sweep, group, metric, strategy, colours)):
            figure.add_trace(line.update(showlegend=column == 1), 1, column)
            if level[i] == level[i]:
                dash = {"color": colours[i], "dash": "dash", "width": 1}
                figure.add_hline(level[i], line=dash, row=1, col=column)
    figure.update_xaxes(title="iteration", tickvals=list(sweep.axes["column"]))
    figure.update_yaxes(title=name_of(metric), col=1)
    figure.update_layout(
        legend={"title": {"text": "layer"}}, margin={"l": 84, "r": 24, "b": 58}, hovermode="closest"
    )
    start = sweep.settings.positions[0]
    said = [
        scope(sweep, group, metric),
        *(["dashed: all positions at once"] if any(v == v for v in level) else []),
        f"chained starts from the patch at {start} alone: where that carries nothing, neither does it",
    ]
    return headed(
        lined(figure),
        f"Iterative patching: {name_of(metric)}",
        "; ".join(said),
        width=170 + 230 * len(strategies),
        body=300,
        extra=26,
    )


def _trajectories(
    sweep: Sweep, group: Aggregate, metric: str, strategy: str, colours: Sequence[str]
) -> list[go.Scatter]:
    """A strategy's line of each layer."""
    mean, low, high = (
        as_grid(table[metric], sweep, strategy) for table in (group.means, group.low, group.high)
    )
    n = pairs_behind(group, metric)
    return [
        go.Scatter(
            x=list(sweep.axes["column"]),
            y=mean[i].tolist(),
            customdata=_intervals(low[i], high[i]),
            name=str(layer),
            legendgroup=str(layer),
            mode="lines+markers",
            line={"color": colours[i]},
            hovertemplate=f"layer {layer}, iteration %{{x}}: %{{y:.4f}} [%{{customdata}}]"
            f"<br>n = {n}<extra></extra>",
        )
        for i, layer in enumerate(sweep.axes["row"])
    ]


def _shades(count: int) -> list[str]:
    """Colours of layers in order, short of the scale's light end, which white ground swallows."""
    places = [0.9 * i / max(1, count - 1) for i in range(count)]
    return list(sample_colorscale(SEQUENTIAL, places))


def scatter(
    sweeps: Mapping[str, Sweep], metric: str = "recovery", maps: tuple[str, str] | None = None
) -> go.Figure:
    """The cells of one sweep against the same cells of another, structural zeros left out.

    Args:
        sweeps: name -> sweep, two of them. An iteration is the cell of the position that it patches.
        metric: one that both have.
        maps: the effect of each; the first if None.

    Raises:
        UserError: not two sweeps, no cell that both have, or a metric or map that one of them lacks.
    """
    if len(sweeps) != 2:
        raise UserError(f"{len(sweeps)} sweeps; a scatter is of two")
    chosen = maps or tuple(panels(sweep)[0] for sweep in sweeps.values())
    cells = [
        _cells(sweep, metric, name) for sweep, name in zip(sweeps.values(), chosen, strict=True)
    ]
    shared = [cell for cell in cells[0] if cell in cells[1]]
    if not shared:
        raise UserError(f"{' and '.join(sweeps)} have no cell in common that has a value in both")
    x, y = ([table[cell] for cell in shared] for table in cells)
    figure = _points(shared, x, y)
    ends = [min(x + y), max(x + y)]
    line = {"color": "#888888", "dash": "dot"}
    figure.add_shape(type="line", x0=ends[0], y0=ends[0], x1=ends[1], y1=ends[1], line=line)
    titles = (sweep.experiment.title for sweep in sweeps.values())
    names = [f"{title}, {kind}" for title, kind in zip(titles, chosen, strict=True)]
    figure.update_layout(
        xaxis={"title": names[0]},
        yaxis={"title": names[1]},
        legend={"title": {"text": "layer"}},
        margin={"l": 84, "r": 24, "b": 58},
    )
    found = rank_correlation(torch.tensor(x), torch.tensor(y))
    rho = "not given (too few cells, or all alike)" if found.rho is None else f"{found.rho:.2f}"
    subtitle = f"means over pairs; Spearman's ρ = {rho}, n = {found.n} cells; dotted: equal"
    title = f"Cell against cell: {name_of(metric)}"
    return headed(lined(figure), title, subtitle, width=520, body=430)


def _points(
    cells: Sequence[tuple[Label, Label]], x: Sequence[float], y: Sequence[float]
) -> go.Figure:
    """A point for each cell (layer, position), in the colour and shape of its layer."""
    layers = sorted({str(layer) for layer, _ in cells}, key=lambda text: (len(text), text))
    figure, shades = go.Figure(), _shades(len(layers))
    for i, layer in enumerate(layers):
        own = [k for k, cell in enumerate(cells) if str(cell[0]) == layer]
        figure.add_scatter(
            x=[x[k] for k in own],
            y=[y[k] for k in own],
            text=[f"layer {layer}, position {cells[k][1]}" for k in own],
            name=layer,
            mode="markers",
            marker={"color": shades[i], "size": 9, "symbol": SYMBOLS[i % len(SYMBOLS)]},
            hovertemplate="%{text}<br>%{x:.4f}, %{y:.4f}<extra></extra>",
        )
    return figure


def _cells(sweep: Sweep, metric: str, name: str) -> dict[tuple[Label, Label], float]:
    """(layer, position) -> mean over pairs, where there is one and it is not zero by construction."""
    values = as_grid(aggregate(sweep).means[metric], sweep, name)
    zeros = sweep.structural_zeros(name)
    _, layers, steps = what_cells_are(sweep)
    return {
        (layer, step): float(values[i, j])
        for i, layer in enumerate(layers)
        for j, step in enumerate(steps)
        if not zeros[i, j] and values[i, j] == values[i, j]
    }
