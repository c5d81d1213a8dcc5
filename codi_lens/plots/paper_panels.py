"""Panels of a figure for a paper: how high they are, and what is written in and around them.

Text is measured by its characters, generously: what it is drawn with is not known here.
"""

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

INCH = 96
"""Pixels, as SVG and PDF have them."""
TEXT = 8 * INCH / 72
CHARACTER, LINE = 0.56 * TEXT, 1.3 * TEXT
"""Of text: the width of a character, the height of a line."""
LOWEST, HIGHEST = 110, 2.6 * INCH
"""Of a panel of lines or points."""
LOWEST_MAP = 60
"""Of a map, for the colour bar beside it."""
MANY, MOST_OF_MANY = 40, 4.5 * INCH
"""Rows of a map above which they need not hold a line of text, and its height then."""
TAGS = re.compile(r"<[^>]*>")


class Panel:
    """What is drawn on one pair of axes."""

    def __init__(self, figure: go.Figure, x: str, y: str) -> None:
        self.x, self.y = figure.layout[x], figure.layout[y]
        ids = (x.replace("axis", ""), y.replace("axis", ""))
        self.traces = [t for t in figure.data if (t.xaxis or "x", t.yaxis or "y") == ids]
        self.map = next((t for t in self.traces if t.type == "heatmap"), None)
        self.x_labels, self.y_labels = _ticks(self.x, self.traces, "x"), _ticks(self.y, [], "y")
        self.size = (1, 1)
        if self.map is not None:
            self.size = (len(self.map.z), len(self.map.z[0]))
        layout, spans = figure.layout, []
        for axis, whole in (
            (self.y, (layout.height or 450) - (layout.margin.t or 100) - (layout.margin.b or 80)),
            (self.x, (layout.width or 700) - (layout.margin.l or 80) - (layout.margin.r or 80)),
        ):
            low, high = axis.domain or (0, 1)
            spans.append(whole * (high - low))
        self.aspect = spans[0] / spans[1]

    def height(self, wide: float) -> float:
        """What it needs at this width: cells keep their shape and hold a line of text, if there are not too many."""
        if self.map is None:
            return min(max(LOWEST, min(self.aspect, 0.75) * wide), HIGHEST)
        rows = self.size[0]
        high = max(min(self.aspect * wide, 2 * LINE * rows), LINE * rows, LOWEST_MAP)
        return min(high, MOST_OF_MANY if rows > MANY else high)

    def holds_numbers(self, wide: float, high: float) -> bool:
        """Whether what is written in its cells fits in them."""
        if self.map is None:
            return True
        rows = () if self.map.text is None else self.map.text
        texts = [TAGS.sub("", text) for row in rows for text in row]
        widest = max(map(len, texts), default=0) * 0.9 * CHARACTER
        return widest <= wide / self.size[1] - 1 and high / self.size[0] >= LINE - 1

    def fit(self, wide: float, high: float, numbers: bool) -> None:
        """Leaves out what there is no room for: numbers in cells, names of rows and columns, values over bars."""
        if self.map is not None and not numbers:
            self.map.texttemplate = ""
        tilted = _tilted(self.x, self.x_labels, wide)
        if tilted:
            self.x.tickangle = -90
        for axis, room in ((self.y, high), (self.x, wide if tilted else math.inf)):
            if axis.ticktext is not None:
                every = math.ceil(0.9 * LINE * len(axis.ticktext) / room) or 1
                axis.update(tickvals=axis.tickvals[::every], ticktext=axis.ticktext[::every])
        for trace in self.traces:
            if trace.type == "scatter" and trace.mode == "text":
                trace.visible = len(trace.text) * (max(map(len, trace.text)) + 1) * CHARACTER < wide

    def below(self, wide: float) -> float:
        """Height of the names of its columns."""
        if not _tilted(self.x, self.x_labels, wide):
            return LINE + 4
        return 6 + CHARACTER * max(map(len, self.x_labels))


def _ticks(axis: Any, traces: Sequence[Any], side: str) -> list[str]:
    """What is written along an axis; of numbers, something as long."""
    if axis.ticktext is not None:
        return list(map(str, axis.ticktext))
    given = [t[side] for t in traces if t[side] is not None]
    texts = [value for values in given for value in values if isinstance(value, str)]
    return list(dict.fromkeys(texts)) or ["-0.00"]


def _tilted(axis: Any, labels: Sequence[str], wide: float) -> bool:
    """Whether names of columns do not fit beside each other."""
    if axis.ticktext is None and labels == ["-0.00"]:
        return False
    return max(map(len, labels)) * CHARACTER > wide / len(labels) - 2


@dataclass(frozen=True)
class Titles:
    """Titles of axes on one side: one for all panels, on the outer ones; or each panel's own."""

    texts: list[str]

    @classmethod
    def of(cls, panels: Sequence[Panel], side: str) -> "Titles":
        """What the panels have, and where they have none, what the first has."""
        own = [getattr(panel, side).title.text or "" for panel in panels]
        return cls([text or next(filter(None, own), "") for text in own])

    @property
    def differ(self) -> bool:
        """Whether each panel has its own."""
        return len(set(self.texts)) > 1

    def at(self, index: int, outer: bool) -> str:
        """Of a panel; `outer`: with no other between it and the edge."""
        return self.texts[index] if outer or self.differ else ""


def wrapped(text: str, wide: float) -> list[str]:
    """Lines of at most this width, if no word is wider."""
    return textwrap.wrap(text, max(1, int(wide / CHARACTER)), break_long_words=False)
