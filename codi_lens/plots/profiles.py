"""Sweeps as lines and points: profiles over layers, trajectories over iterations, cells of two runs."""

from collections.abc import Mapping

import plotly.graph_objects as go
import torch
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from codi_lens.aggregates import Aggregate, aggregate
from codi_lens.comparison import spearman
from codi_lens.grids import as_grid, columns, panels, structural_zeros
from codi_lens.outcomes import Sweep
from codi_lens.plans import Label
from codi_lens.plots.style import (
    EXPERIMENTS,
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
    """
    figure, number = go.Figure(), 0
    labels = list(dict.fromkeys(str(la) for s in sweeps.values() for la in s.settings.layers))
    for name, sweep in sweeps.items():
        group = aggregate(sweep)
        for line, index in _profiles(sweep, group, metric):
            # Side by side, so that intervals do not hide each other.
            places = [labels.index(str(la)) + 0.06 * number for la in sweep.settings.layers]
            middle, low, high = (
                torch.stack([t[metric][cell] for cell in index])
                for t in (group.means, group.low, group.high)
            )
            figure.add_scatter(
                x=places,
                y=middle.tolist(),
                name=f"{EXPERIMENTS.get(name, name)} {line}".strip(),
                text=[str(layer) for layer in sweep.settings.layers],
                mode="lines+markers",
                line={"color": PALETTE[number % len(PALETTE)]},
                marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 8},
                error_y={
                    "type": "data",
                    "array": (high - middle).tolist(),
                    "arrayminus": (middle - low).tolist(),
                    "thickness": 1,
                },
                hovertemplate="layer %{text}: %{y:.4f}",
            )
            number += 1
    first = next(iter(sweeps.values()))
    figure.update_layout(
        xaxis={
            "title": "layer",
            "tickvals": [i + 0.03 * (number - 1) for i in range(len(labels))],
            "ticktext": labels,
        },
        yaxis={"title": name_of(metric), "rangemode": "tozero"},
        margin={"l": 84, "r": 24, "b": 58},
        legend={"x": 1.02, "y": 1},
        showlegend=number > 1,
    )
    subtitle = f"{scope(first, aggregate(first), metric)}; bars: 95% bootstrap intervals over pairs"
    width = 560 + 260 * (number > 1)
    return headed(
        lined(figure), f"Layer by layer: {name_of(metric)}", subtitle, width=width, body=330
    )


def _profiles(
    sweep: Sweep, group: Aggregate, metric: str
) -> list[tuple[str, list[tuple[int, ...]]]]:
    """(label, the cell of each layer) of every line that a sweep contributes to a profile."""
    layers = range(len(sweep.settings.layers))
    if sweep.experiment == "layer_patching":
        return [("", [(0, layer) for layer in layers])]
    if sweep.experiment == "iterative_patching":
        last = len(sweep.axes["iteration"]) - 1
        strategies = enumerate(sweep.axes["strategy"])
        return [(str(name), [(i, layer, last) for layer in layers]) for i, name in strategies]
    best = group.means[metric][0].nan_to_num(-torch.inf).argmax(-1).tolist()
    return [("(largest cell)", [(0, layer, best[layer]) for layer in layers])]


def trajectories(sweep: Sweep, metric: str = "recovery") -> go.Figure:
    """Iterative patching: a metric or similarity against the iteration, one line per layer.

    One panel per strategy that has iterations; a dashed line marks what `parallel` reaches at the layer.
    """
    group = aggregate(sweep)
    strategies = [name for name in panels(sweep) if name != "parallel"]
    figure = make_subplots(
        1, len(strategies), subplot_titles=strategies, shared_yaxes=True, horizontal_spacing=0.03
    )
    layers, iterations = sweep.settings.layers, list(sweep.axes["iteration"])
    # Short of the scale's light end, which white ground swallows.
    shades = [0.9 * i / max(1, len(layers) - 1) for i in range(len(layers))]
    colours = sample_colorscale(SEQUENTIAL, shades)
    level = as_grid(group.means[metric], sweep, "parallel")[:, -1].tolist()
    for column, strategy in enumerate(strategies, start=1):
        lines = as_grid(group.means[metric], sweep, strategy).tolist()
        for i, layer in enumerate(layers):
            figure.add_scatter(
                x=iterations,
                y=lines[i],
                name=str(layer),
                legendgroup=str(layer),
                showlegend=column == 1,
                mode="lines+markers",
                line={"color": colours[i]},
                hovertemplate=f"layer {layer}, iteration %{{x}}: %{{y:.4f}}<extra></extra>",
                row=1,
                col=column,
            )
            if level[i] == level[i]:
                dash = {"color": colours[i], "dash": "dash", "width": 1}
                figure.add_hline(level[i], line=dash, row=1, col=column)
    figure.update_xaxes(title="iteration", tickvals=iterations)
    figure.update_yaxes(title=name_of(metric), col=1)
    figure.update_layout(
        legend={"title": {"text": "layer"}}, margin={"l": 84, "r": 24, "b": 58}, hovermode="closest"
    )
    dashes = "; dashed: all positions at once" if any(v == v for v in level) else ""
    return headed(
        lined(figure),
        f"Iterative patching: {name_of(metric)}",
        scope(sweep, group, metric) + dashes,
        width=170 + 230 * len(strategies),
        body=300,
        extra=26,
    )


def scatter(
    sweeps: Mapping[str, Sweep], metric: str = "recovery", maps: tuple[str, str] | None = None
) -> go.Figure:
    """The cells of one sweep against the same cells of another, structural zeros left out.

    Args:
        sweeps: name -> sweep, two of them. An iteration is the cell of the position that it patches.
        metric: one that both have.
        maps: the variant or strategy of each; the first if None.

    Raises:
        ValueError: not two sweeps, or no cell that both have.
    """
    if len(sweeps) != 2:
        raise ValueError(f"{len(sweeps)} sweeps; a scatter is of two")
    chosen = maps or tuple(panels(sweep)[0] for sweep in sweeps.values())
    cells = [
        _cells(sweep, metric, name) for sweep, name in zip(sweeps.values(), chosen, strict=True)
    ]
    shared = [cell for cell in cells[0] if cell in cells[1]]
    if not shared:
        raise ValueError(f"{' and '.join(sweeps)} have no cell in common")
    x, y = ([table[cell] for cell in shared] for table in cells)
    layers = sorted({str(cell[0]) for cell in shared}, key=lambda text: (len(text), text))
    figure = go.Figure()
    for i, layer in enumerate(layers):
        own = [k for k, cell in enumerate(shared) if str(cell[0]) == layer]
        shade = sample_colorscale(SEQUENTIAL, [0.9 * i / max(1, len(layers) - 1)])[0]
        figure.add_scatter(
            x=[x[k] for k in own],
            y=[y[k] for k in own],
            text=[f"layer {layer}, position {shared[k][1]}" for k in own],
            name=layer,
            mode="markers",
            marker={"color": shade, "size": 9, "symbol": SYMBOLS[i % len(SYMBOLS)]},
            hovertemplate="%{text}<br>%{x:.4f}, %{y:.4f}<extra></extra>",
        )
    ends = [min(x + y), max(x + y)]
    line = {"color": "#888888", "dash": "dot"}
    figure.add_shape(type="line", x0=ends[0], y0=ends[0], x1=ends[1], y1=ends[1], line=line)
    names = [f"{EXPERIMENTS.get(n, n)}, {kind}" for n, kind in zip(sweeps, chosen, strict=True)]
    figure.update_layout(
        xaxis={"title": names[0]},
        yaxis={"title": names[1]},
        legend={"title": {"text": "layer"}},
        margin={"l": 84, "r": 24, "b": 58},
    )
    rho = spearman(torch.tensor(x).double(), torch.tensor(y).double())
    subtitle = f"{len(shared)} cells, Spearman's ρ = {rho:.2f}; dotted: equal"
    title = f"Cell against cell: {name_of(metric)}"
    return headed(lined(figure), title, subtitle, width=520, body=430)


def _cells(sweep: Sweep, metric: str, name: str) -> dict[tuple[Label, Label], float]:
    """(layer, position) -> mean over pairs, where there is one and it is not zero by construction."""
    values = as_grid(aggregate(sweep).means[metric], sweep, name)
    zeros = structural_zeros(sweep, name)
    # An iteration counts the chosen positions, in order.
    steps = sweep.settings.positions if "iteration" in sweep.axes else columns(sweep)[1]
    return {
        (layer, step): float(values[i, j])
        for i, layer in enumerate(sweep.settings.layers)
        for j, step in enumerate(steps)
        if not zeros[i, j] and values[i, j] == values[i, j]
    }
