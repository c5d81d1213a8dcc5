"""The one way in which maps are drawn: panels of cells side by side, on one colour scale.

Layers go upward, steps of the loop rightward. Cells that are zero by construction are hatched, cells that
stand out are outlined, cells without a value are grey.
"""

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil
from typing import Any

import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from plotly.subplots import make_subplots
from torch import Tensor

from codi_lens.patching.settings import Label
from codi_lens.plots.style import UNDEFINED, black_on, colour_axis, headed, small_titles

PER_ROW = 3
MANY_COLUMNS = 12
"""Above this many columns, cells are too narrow for their numbers."""
MOST_HEIGHT = 1500
"""Of a map, in pixels: the cells of many rows, such as heads, become lower."""
MANY_ROWS = 90
"""Above this many rows, cells are too low for numbers, and not every row has its name."""
SPAN = re.compile(r"</?span[^>]*>")


@dataclass(frozen=True)
class Panel:
    """One map: its values, what is said of each cell, and which cells are marked."""

    title: str
    values: Float[Tensor, "row column"]
    rows: Sequence[Label]
    columns: Sequence[Label]
    zeros: Bool[Tensor, "row column"] | None = None
    outlined: Sequence[tuple[int, ...]] = ()
    threshold: float | None = None
    """What the donor control reaches, and an outlined cell exceeds; None without that control."""
    hover: Sequence[Sequence[str]] | None = None
    text: Sequence[Sequence[str]] | None = None
    """What is written in the cells, as plotly's markup; None: the values, to two decimals."""
    across: str | None = None
    """Title of the x axis, if it is another than the figure's."""
    meaning: str | None = None
    """What outlined cells are; None: the five largest."""


def draw(
    panels: Sequence[Panel],
    *,
    title: str,
    subtitle: str,
    colour: str,
    signed: bool,
    axes: tuple[str, str] = ("latent position", "layer"),
    across: int | None = None,
    cell: tuple[int, int] | None = None,
) -> go.Figure:
    """Draws the panels. `colour` names the values, `axes` are titles x, y.

    `across`: panels in a row; None: at most three. `cell`: its width and height in pixels; None: as fits the numbers.
    """
    across = across or (2 if len(panels) == 4 else min(PER_ROW, len(panels)))
    down = ceil(len(panels) / across)
    cell = cell or ((62, 36) if len(panels) == 1 else (46, 28))
    rows, columns = (max(len(getattr(p, n)) for p in panels) for n in ("rows", "columns"))
    each = min(cell[1], max(MOST_HEIGHT // rows, 5))
    wide, high = max(170, cell[0] * columns), max(90, each * rows)
    titles = [textwrap.wrap(p.title, wide // 7) for p in panels] if len(panels) > 1 else [[]]
    heading = 9 + 17 * max(map(len, titles)) if len(panels) > 1 else 0
    # Names of rows stand in front of every panel, those of columns below.
    side = 7 * max(len(str(row)) for panel in panels for row in panel.rows)
    below = 3 * max(len(str(column)) for panel in panels for column in panel.columns)
    gap = (max(36, side + 14) * (across > 1), (50 + below + heading) * (down > 1))
    inner = (across * wide + (across - 1) * gap[0], down * high + (down - 1) * gap[1])
    figure = make_subplots(
        down,
        across,
        subplot_titles=["<br>".join(map(escape, lines)) for lines in titles] if heading else None,
        horizontal_spacing=gap[0] / inner[0],
        vertical_spacing=gap[1] / inner[1],
    )
    for i, panel in enumerate(panels):
        place(figure, panel, i // across + 1, i % across + 1, axes, i + across >= len(panels))
    values = [panel.values for panel in panels]
    figure.update_layout(
        coloraxis=colour_axis(values, signed=signed, title=colour),
        plot_bgcolor=UNDEFINED,
        margin={"l": max(74, side + 42), "r": 110, "b": 58 + below},
    )
    scale = figure.layout.coloraxis
    paint(figure, scale.cmin, scale.cmax)
    width, body = max(470, inner[0] + max(74, side + 42) + 120), inner[1] + 58 + below
    said = "; ".join(filter(None, (subtitle, legend(panels))))
    return headed(small_titles(figure), title, said, width=width, body=body, extra=heading)


def paint(figure: go.Figure, low: float, high: float) -> None:
    """Sets the range of a figure's colours, and each cell's text black or white, as its colour needs."""
    scale = figure.update_coloraxes(cmin=low, cmax=high).layout.coloraxis
    black = black_on(scale.colorscale)

    def inked(text: str, value: float | None) -> str:
        if not text or value is None:
            return ""
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        colour = "#000000" if black[0] <= share <= black[1] else "#ffffff"
        return f'<span style="color:{colour}">{SPAN.sub("", text)}</span>'

    for trace in figure.select_traces(selector={"type": "heatmap"}):
        trace.text = [
            [inked(*cell) for cell in zip(*row, strict=True)]
            for row in zip(trace.text, trace.z, strict=True)
        ]


def on_one_scale(
    figures: Iterable[go.Figure],
    others: Iterable[Float[Tensor, "..."]] = (),
    *,
    signed: bool = True,
) -> tuple[float, float]:
    """Gives the colours of several figures of maps the range that holds them all, and `others`; returns it."""
    drawn = list(figures)
    maps = [torch.tensor(trace.z) for figure in drawn for trace in figure.data]
    scale = colour_axis([*maps, *others], signed=signed, title="")
    for figure in drawn:
        paint(figure, scale["cmin"], scale["cmax"])
    return scale["cmin"], scale["cmax"]


def legend(panels: Sequence[Panel]) -> str:
    """What the marks of the panels mean, and what is missing; "" where there is nothing to say."""
    parts = []
    marked = [panel for panel in panels if panel.outlined]
    if marked and marked[0].meaning is not None:
        parts.append(f"outlined: {marked[0].meaning}")
    elif marked:
        each = " of each map" if len(panels) > 1 else ""
        parts.append(f"outlined: the five largest{each}{_above(marked)}")
    if any(panel.zeros is not None and bool(panel.zeros.any()) for panel in panels):
        parts.append("hatched: zero by construction")
    if not any(bool(panel.values.isfinite().any()) for panel in panels):
        parts.append("no cell has a value")
    return "; ".join(parts)


def _above(marked: Sequence[Panel]) -> str:
    """What outlined cells exceed: one threshold, or each map's own."""
    limits = {
        panel.title: "not run" if panel.threshold is None else f"{panel.threshold:.3g}"
        for panel in marked
    }
    if set(limits.values()) == {"not run"}:
        return ""
    if len(set(limits.values())) == 1:
        return f" above the donor control's largest, {next(iter(limits.values()))}"
    own = ", ".join(f"{title}: {limit}" for title, limit in limits.items())
    return f" above its donor control's largest ({own})"


def place(
    figure: go.Figure, panel: Panel, row: int, column: int, axes: tuple[str, str], lowest: bool
) -> None:
    """Puts one panel with its marks and ticks at its place; outer panels alone have axis titles."""
    figure.add_trace(_trace(panel, axes), row, column)
    for shape in _marks(panel):
        figure.add_shape(shape, row=row, col=column)
    steps, rows = [str(label) for label in panel.columns], [str(label) for label in panel.rows]
    where: dict[str, Any] = {"row": row, "col": column, "showgrid": False, "zeroline": False}
    if lowest:
        where["title"] = {"text": panel.across or axes[0], "standoff": 6}
    figure.update_xaxes(
        tickvals=list(range(len(steps))), ticktext=steps, range=[-0.5, len(steps) - 0.5], **where
    )
    where["title"] = {"text": axes[1] if column == 1 else "", "standoff": 4}
    figure.update_yaxes(
        tickvals=list(range(len(rows)))[:: len(rows) // MANY_ROWS + 1],
        ticktext=rows[:: len(rows) // MANY_ROWS + 1],
        range=[-0.5, len(rows) - 0.5],
        **where,
    )


def _trace(panel: Panel, axes: tuple[str, str]) -> go.Heatmap:
    values = panel.values.tolist()
    text = panel.text or [[short(value) for value in row] for row in values]
    if len(panel.columns) > MANY_COLUMNS or len(panel.rows) > MANY_ROWS:
        text = [["" for _ in row] for row in text]
    said = panel.hover or [
        [
            f"{axes[1]} {row}, {panel.across or axes[0]} {column}: {value:.4g}"
            for column, value in zip(panel.columns, line, strict=True)
        ]
        for row, line in zip(panel.rows, values, strict=True)
    ]
    return go.Heatmap(
        z=values,
        text=text,
        texttemplate="%{text}",
        textfont={"size": 12},
        customdata=said,
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=False,
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
    )


def short(value: float) -> str:
    """Two decimals, nothing for NaN, no minus before zero."""
    return "" if value != value else f"{value:.2f}".replace("-0.00", "0.00")


def _marks(panel: Panel) -> list[dict[str, object]]:
    """Hatching over structural zeros, in one path, and a frame around each outlined cell."""
    shapes: list[dict[str, object]] = []
    zeros = [] if panel.zeros is None else panel.zeros.nonzero().tolist()
    if zeros:
        strokes = [
            f"M {j - 0.5 + x0},{i - 0.5 + y0} L {j - 0.5 + x1},{i - 0.5 + y1}"
            for i, j in zeros
            for x0, y0, x1, y1 in ((0, 0.5, 0.5, 1), (0, 0, 1, 1), (0.5, 0, 1, 0.5))
        ]
        line = {"color": "#999999", "width": 1}
        shapes.append({"type": "path", "path": " ".join(strokes), "line": line})
    for i, j in panel.outlined:
        ends = {"x0": j - 0.47, "x1": j + 0.47, "y0": i - 0.47, "y1": i + 0.47}
        shapes.append({"type": "rect", "line": {"color": "black", "width": 2.5}, **ends})
    return shapes
