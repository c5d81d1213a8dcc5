"""Attribution as a map, with its fidelity beside it."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from codi_lens.analysis.attribution import Attribution, Fidelity
from codi_lens.plots.panels import Panel, paint, place
from codi_lens.plots.style import PALETTE, UNDEFINED, colour_axis, headed, label, small_titles


def attribution(found: Attribution) -> go.Figure:
    """The mean map of an attribution, and its scores against exact patching, cell by cell."""
    fidelity = found.fidelity
    titles = ["mean score over pairs"] + (["cell by cell, of those drawn"] if fidelity else [])
    figure = make_subplots(
        1,
        len(titles),
        subplot_titles=titles,
        column_widths=[0.6, 0.4][: len(titles)],
        horizontal_spacing=0.12,
    )
    _add_map(figure, found)
    if fidelity is not None:
        _add_cells(figure, found, fidelity)
    figure.update_layout(
        plot_bgcolor=UNDEFINED, margin={"l": 74, "r": 110, "b": 58}, showlegend=False
    )
    said = f"{label(found.metric)}; {_how(found)}"
    subtitle = said if fidelity is None else f"{said}; {fidelity.text}"
    body = max(300, 22 * len(found.rows) + 120)
    return headed(small_titles(figure), "Attribution", subtitle, width=900, body=body)


def _add_map(figure: go.Figure, found: Attribution) -> None:
    """The mean map, numbers in black or white as their colour needs."""
    mean = found.mean()
    place(
        figure, Panel("", mean, found.rows, found.columns), 1, 1, ("latent position", "place"), True
    )
    scale = colour_axis([mean], signed=True, title="score")
    paint(figure.update_layout(coloraxis=scale), scale["cmin"], scale["cmax"])


def _add_cells(figure: go.Figure, found: Attribution, fidelity: Fidelity) -> None:
    """A point for every cell that was patched exactly."""
    scores, exact = fidelity.scores.tolist(), fidelity.exact.tolist()
    names = [
        f"pair {found.pairs[pair].pair_id}, {found.rows[row]}, position {found.columns[column]}"
        for pair, row, column in fidelity.cells
    ]
    figure.add_scatter(
        x=exact,
        y=scores,
        text=names,
        mode="markers",
        marker={"size": 6, "opacity": 0.6, "color": PALETTE[0]},
        hovertemplate="%{text}<br>exact %{x:.3f}, score %{y:.3f}<extra></extra>",
        row=1,
        col=2,
    )
    ends = [min(scores + exact), max(scores + exact)]
    line = {"color": "#888888", "dash": "dot"}
    figure.add_shape(
        type="line", x0=ends[0], y0=ends[0], x1=ends[1], y1=ends[1], line=line, row=1, col=2
    )
    figure.update_xaxes(title="exact effect", row=1, col=2)
    figure.update_yaxes(title="score", row=1, col=2)


def _how(found: Attribution) -> str:
    steps = (
        f"integrated over {found.steps} points"
        if found.method == "integrated"
        else "gradient in the base run"
    )
    unequal = found.interpolated.count(False)
    what = f", {unequal} pairs of unequal length between their thoughts" if unequal else ""
    return f"{found.settings.effects[0]} effect, {steps}{what}, n = {len(found.pairs)} pairs"
