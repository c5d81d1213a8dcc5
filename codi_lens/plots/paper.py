"""Figures for papers: a column or a page wide, text of 8 points throughout, no title, which the caption has.

A figure is laid out anew, not scaled: panels that would be too narrow side by side go below each other, numbers are left
out of cells that are too small for them, and legends go below.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape, unescape
from typing import Any

import plotly.graph_objects as go

from codi_lens.errors import one_of
from codi_lens.plots.paper_panels import CHARACTER, INCH, LINE, TAGS, TEXT, Panel, Titles, wrapped

WIDTHS = {"column": 3.3, "page": 6.9}
"""In inches."""
THINNER = 0.6
"""Lines and markers, beside those on a screen."""
BAR = 8
"""Thickness of a colour bar."""
KEY = 40
"""Width of what stands before a name in a legend."""
NARROWEST = 90
"""Of a panel beside another, in pixels."""


def laid_out(figure: go.Figure, width: str = "column") -> go.Figure:
    """A copy of a figure as a paper has it; a plain figure.

    Raises:
        UserError: `width` is neither "column" nor "page".
    """
    wide = WIDTHS[one_of(width, WIDTHS, "width")] * INCH
    drawn = go.Figure(figure)
    _thin(drawn)
    panels = [Panel(drawn, *axes) for axes in _axes_of(drawn)]
    columns = len({panel.x.domain for panel in panels})
    for lines in range(1, 5):  # of the colour bar's title, which the panels' height must hold
        frame = _Frame(drawn, panels, wide, columns, lines)
        if frame.holds_bar:
            break
    frame.apply()
    return drawn


def _axes_of(figure: go.Figure) -> list[tuple[str, str]]:
    """The x and y axis of every panel, in order."""
    found = dict.fromkeys((trace.xaxis or "x", trace.yaxis or "y") for trace in figure.data)
    return [(f"xaxis{x[1:]}", f"yaxis{y[1:]}") for x, y in found or [("x", "y")]]


def _thin(figure: go.Figure) -> None:
    """One size of text, thinner lines, no title."""
    size = {"size": TEXT}
    figure.update_layout(title=None, font=size, legend={"font": size, "title": {"font": size}})
    figure.update_annotations(font=size)
    for axes in (figure.update_xaxes, figure.update_yaxes):
        axes(title={"font": size}, tickfont=size, automargin=False)
    for trace in figure.data:
        if "textfont" in trace:
            trace.textfont.size = TEXT
        if trace.type == "scatter":
            trace.line.width = THINNER * (2 if trace.line.width is None else trace.line.width)
            if not isinstance(trace.marker.size, Sequence):
                trace.marker.size = THINNER * (trace.marker.size or 8)
    for shape in figure.layout.shapes:
        shape.line.width = THINNER * (2 if shape.line.width is None else shape.line.width)
    if isinstance(
        figure.layout.meta, dict
    ):  # a page has title and subtitle apart, and the figure no more
        figure.layout.meta = figure.layout.meta | {"height": 0}


@dataclass
class _Frame:
    """Where everything goes, in pixels."""

    figure: go.Figure
    panels: Sequence[Panel]
    wide: float
    most: int
    """Panels in a row on the screen."""
    bar_lines: int

    def __post_init__(self) -> None:
        layout = self.figure.layout
        self.x_titles, self.y_titles = (Titles.of(self.panels, side) for side in "xy")
        names = CHARACTER * max(len(text) for panel in self.panels for text in panel.y_labels)
        self.left = names + 10 + LINE * any(self.y_titles.texts)
        self.bar = layout.coloraxis.colorbar if layout.coloraxis.colorscale else None
        self.right = 10.0
        if self.bar is not None:
            self.right += BAR + 5 * CHARACTER + self.bar_lines * LINE
        shared = all(panel.y.matches for panel in self.panels[1:])
        self.gap = 10 if shared else names + 12 + LINE * self.y_titles.differ
        inner = self.wide - self.left - self.right
        self.across = max(
            (k for k in range(1, self.most + 1) if inner >= k * NARROWEST + (k - 1) * self.gap),
            default=1,
        )
        self.across = min(self.across, len(self.panels))
        self.each = (inner - (self.across - 1) * self.gap) / self.across
        self._rows()

    def _rows(self) -> None:
        """Heights of the rows of panels: titles, panels, names of columns."""
        self.titles = [wrapped(text, self.each) for text in self._titles()]
        self.tops, self.highs, y = [], [], 4.0
        count = len(self.panels)
        for start in range(0, count, self.across):
            row = range(start, min(start + self.across, count))
            y += LINE * max((len(self.titles[i]) for i in row), default=0) + 3
            self.tops.append(y)
            self.highs.append(max(self.panels[i].height(self.each) for i in row))
            y += self.highs[-1] + max(self.panels[i].below(self.each) for i in row)
            lowest = any(i + self.across >= count for i in row)
            y += (LINE + 2) * (any(self.x_titles.texts) and (lowest or self.x_titles.differ))
        self.entries = _entries(self.figure)
        self.legend = _legend_rows(self.figure, self.entries, self.wide) * (LINE + 5)
        self.high = y + 4 + self.legend
        self.low = self.tops[-1] + self.highs[-1]

    def _titles(self) -> Iterator[str]:
        """The titles of the panels, as text."""
        own = self._headings()
        for i in range(len(self.panels)):
            text = own[i].text if len(own) == len(self.panels) else ""
            yield unescape(TAGS.sub(" ", text))

    def _headings(self) -> list[Any]:
        return [
            note
            for note in self.figure.layout.annotations
            if (note.xref, note.yref, note.yanchor) == ("paper", "paper", "bottom")
        ]

    @property
    def holds_bar(self) -> bool:
        """Whether the title of the colour bar fits beside it."""
        if self.bar is None:
            return True
        text = self.bar.title.text or ""
        return len(wrapped(text, self.low - self.tops[0])) <= self.bar_lines

    def apply(self) -> None:
        """Puts everything in its place."""
        inner, body = self.wide - self.left - self.right, self.low - self.tops[0]
        headings = self._headings()
        numbers = all(
            panel.holds_numbers(self.each, self.highs[i // self.across])
            for i, panel in enumerate(self.panels)
        )
        for i, panel in enumerate(self.panels):
            row, column = divmod(i, self.across)
            x, top, high = column * (self.each + self.gap), self.tops[row], self.highs[row]
            bottom = (self.low - top - high) / body
            panel.x.domain = (x / inner, min(1, (x + self.each) / inner))
            panel.y.domain = (max(0, bottom), min(1, bottom + high / body))
            lowest = i + self.across >= len(self.panels)
            panel.x.title.update(text=self.x_titles.at(i, lowest), standoff=4)
            panel.y.title.update(text=self.y_titles.at(i, column == 0), standoff=4)
            if column == 0:
                panel.y.showticklabels = True
            panel.fit(self.each, high, numbers)
            if len(headings) == len(self.panels):
                text = "<br>".join(map(escape, self.titles[i]))
                headings[i].update(text=text, x=(x + self.each / 2) / inner, y=panel.y.domain[1])
        self.figure.update_layout(
            width=self.wide,
            height=self.high,
            margin={
                "l": self.left,
                "r": self.right,
                "t": self.tops[0],
                "b": self.high - self.low,
                "autoexpand": False,
                "pad": 0,
            },
        )
        self._keys(inner, body)

    def _keys(self, inner: float, body: float) -> None:
        """The colour bar on the right, the legend below."""
        if self.bar is not None:
            text = self.bar.title.text or ""
            lines = wrapped(text, body)
            self.bar.update(
                x=1, xpad=6, thickness=BAR, len=1, y=0.5, ypad=0, outlinewidth=0, tickfont_size=TEXT
            )
            title = {"text": "<br>".join(lines), "font": {"size": TEXT}, "side": "right"}
            self.bar.update(title=title)
            self.bar.nticks = max(5, int(body / (2.5 * LINE)))
        if self.legend:
            # Beside what is drawn: in terms of the whole figure, titles of axes would give way to it.
            place = {
                "x": (4 - self.left) / inner,
                "y": (self.low + 2 - self.high) / body,
            }
            longest = max(map(len, self.entries)) * CHARACTER
            self.figure.update_layout(
                legend=place
                | {
                    "orientation": "h",
                    "xanchor": "left",
                    "yanchor": "bottom",
                    "entrywidth": longest,
                }
            )


def _entries(figure: go.Figure) -> list[str]:
    """Names that the legend has."""
    if figure.layout.showlegend is False:
        return []
    named = [t for t in figure.data if t.name and t.showlegend is not False]
    own = dict.fromkeys(t.name for t in named if t.type == "scatter")
    return list(own) if len(own) > 1 or figure.layout.showlegend else []


def _legend_rows(figure: go.Figure, entries: Sequence[str], wide: float) -> int:
    if not entries:
        return 0
    title = CHARACTER * len(figure.layout.legend.title.text or "")
    one = KEY + CHARACTER * max(map(len, entries))
    return math.ceil(len(entries) / max(1, int((wide - 8 - title) / one)))
