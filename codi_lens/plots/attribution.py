"""Attribution as a map, with its fidelity beside it."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from codi_lens.analysis.attribution import Attribution, Fidelity
from codi_lens.plots.panels import MANY_COLUMNS, MANY_ROWS, paint, short
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
    crowded = len(found.columns) > MANY_COLUMNS or len(found.rows) > MANY_ROWS
    shown = go.Figure(
        go.Heatmap(
            z=mean.tolist(),
            text=[["" if crowded else short(value) for value in row] for row in mean.tolist()],
            texttemplate="%{text}",
            textfont={"size": 12},
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate="row %{y}, position %{x}: %{z:.4g}<extra></extra>",
        )
    )
    scale = colour_axis([mean], signed=True, title="score")
    shown.update_layout(coloraxis=scale)
    paint(shown, scale["cmin"], scale["cmax"])
    figure.add_trace(shown.data[0], 1, 1).update_layout(coloraxis=scale)
    plain = {"row": 1, "col": 1, "showgrid": False, "zeroline": False}
    for update, title, labels in (
        (figure.update_xaxes, "latent position", found.columns),
        (figure.update_yaxes, "place", found.rows),
    ):
        names = [str(name) for name in labels]
        update(title=title, tickvals=list(range(len(names))), ticktext=names, **plain)


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
