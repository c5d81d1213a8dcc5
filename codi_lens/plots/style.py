"""What figures have in common: words, colours that colour-blind readers can tell apart, sizes."""

import textwrap
from collections.abc import Iterable, Sequence
from functools import lru_cache
from html import escape
from typing import Any

import plotly.graph_objects as go
from jaxtyping import Float
from plotly.colors import get_colorscale, sample_colorscale
from torch import Tensor

from codi_lens.analysis.aggregates import Aggregate
from codi_lens.analysis.grids import pairs_behind
from codi_lens.errors import one_of
from codi_lens.patching.metrics import METRICS
from codi_lens.patching.result import Sweep
from codi_lens.plots.figure import helpful

DIVERGING, SEQUENTIAL = "RdBu", "Viridis"
"""Diverging: red below zero, white at zero, blue above."""
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross")
EVEN = (1.05 * 0.05) ** 0.5 - 0.05
"""The luminance on which black and white text have the same contrast."""
UNDEFINED = "#e4e4e4"
"""Behind cells that have no value."""
TEXT_SIZE = 14
FONT = {"family": "Helvetica, Arial, sans-serif", "size": TEXT_SIZE, "color": "#222222"}

PANEL_TITLES = {
    "total": "total effect: later thoughts regenerated",
    "direct": "direct effect: later thoughts held at the base run's",
    "indirect": "indirect effect: only the later thoughts fed on",
    "interaction": "interaction: total − direct − indirect",
    "identity": "own activation (control): the base run's",
    "resample": "another pair's activation (control)",
    "random_direction": "random direction (control): of the same length",
    "single": "single: one position patched",
    "cumulative": "cumulative: all positions so far",
    "chained": "chained: what the last iteration generated",
    "parallel": "parallel: all positions at once",
    "latent": "latent: this one alone exchanged",
    "tail": "tail: all from this latent on exchanged",
}
"""What each map of a sweep is: its name, and behind a colon more."""


def panel_title(effect: str) -> str:
    """What the map of an effect is."""
    return PANEL_TITLES.get(effect, effect.replace("_", " "))


def label(metric: str) -> str:
    """A metric with its unit, as axes and colour bars name it."""
    return METRICS[one_of(metric, METRICS, "metric")].label


def name_of(metric: str) -> str:
    """A metric's name alone, for titles and colour bars; `label` says what it is."""
    return metric.replace("_", " ").replace("kl ", "KL ")


def scope(sweep: Sweep, group: Aggregate, metric: str) -> str:
    """What is shown, of what, over how many pairs: for a figure's subtitle."""
    settings, n = sweep.settings, pairs_behind(group, metric)
    text = f"{label(metric)}; {sweep.experiment.subject(settings)}, {settings.direction}, n = {n} pairs"
    if n < group.n:
        text += f" ({group.n - n} left out: no recovery defined)"
    return text


def headed(
    figure: go.Figure, title: str, subtitle: str, *, width: int, body: int, extra: int = 0
) -> go.Figure:
    """Title, and subtitle broken to fit `width` pixels, above `body` pixels of figure.

    `extra` pixels stay free between the two, for titles of panels. Text is shown as it is: markup in it
    has no meaning. `layout.meta` has both as they are, and their height, for a page that sets them itself.
    """
    width = max(width, 9 * len(title) + 40)
    below = textwrap.wrap(subtitle, int(width / 6.4))
    top = 50 + 17 * len(below) + extra
    figure.update_layout(
        title={
            "text": escape(title),
            "subtitle": {"text": "<br>".join(map(escape, below)), "font": {"size": 12.5}},
            "font": {"size": 17},
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 12, "t": 12},
        },
        font=FONT,
        width=width,
        height=top + body,
        margin={"t": top},
        paper_bgcolor="white",
        meta={"title": title, "subtitle": subtitle, "height": top - extra - 24},
    )
    return helpful(figure)


def lined(figure: go.Figure) -> go.Figure:
    """White ground, light grid: for figures of lines, points and bars."""
    axis: dict[str, Any] = {"gridcolor": "#e4e4e4", "linecolor": "#888888", "showline": True}
    figure.update_xaxes(**axis, zeroline=False)
    figure.update_yaxes(**axis, zeroline=True, zerolinecolor="#888888", zerolinewidth=1)
    figure.update_layout(plot_bgcolor="white")
    return small_titles(figure)


def small_titles(figure: go.Figure) -> go.Figure:
    """Titles of axes and panels in the size of the figure's text."""
    figure.update_xaxes(title_font_size=TEXT_SIZE)
    figure.update_yaxes(title_font_size=TEXT_SIZE)
    figure.update_annotations(font_size=TEXT_SIZE - 1)
    return figure


def colour_axis(
    maps: Iterable[Float[Tensor, "..."]], *, signed: bool, title: str
) -> dict[str, Any]:
    """One colour scale for several maps: centred on zero where values have a sign."""
    finite = [float(v) for values in maps for v in values.flatten() if v == v]
    heading = {"text": title, "side": "right", "font": {"size": TEXT_SIZE}}
    bar = {"title": heading, "thickness": 14}
    if not signed:
        low, high = min(finite, default=0.0), max(finite, default=1.0)
        high = high if high > low else low + 1.0
        return {"colorbar": bar, "colorscale": SEQUENTIAL, "cmin": low, "cmax": high}
    reach = max((abs(value) for value in finite), default=1.0) or 1.0
    return {"colorbar": bar, "colorscale": DIVERGING, "cmin": -reach, "cmax": reach, "cmid": 0}


def colour_scales() -> dict[str, dict[str, Any]]:
    """Both colour scales, for a page that draws by itself: [position, colour] stops, and `black_on`."""
    scales = {"diverging": get_colorscale(DIVERGING), "sequential": get_colorscale(SEQUENTIAL)}
    return {
        kind: {"stops": [list(stop) for stop in stops], "black": black_on(tuple(map(tuple, stops)))}
        for kind, stops in scales.items()
    }


@lru_cache
def black_on(stops: tuple[tuple[float, str], ...]) -> tuple[float, float]:
    """The range of positions in a colour scale on which black text reads better than white.

    Every colour has at least 4.5 : 1 to one of the two (WCAG 2). The scales here are light in one range.
    """
    places = [i / 2000 for i in range(2001)]
    colours = sample_colorscale([list(stop) for stop in stops], places, colortype="tuple")
    light = [
        place for place, colour in zip(places, colours, strict=True) if luminance(colour) > EVEN
    ]
    return light[0], light[-1]


def luminance(colour: Sequence[float]) -> float:
    """WCAG's relative luminance of an sRGB colour whose channels go from 0 to 1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
