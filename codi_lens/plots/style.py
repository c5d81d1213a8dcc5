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

LABELS = {
    "kl_divergence": "KL(patched ‖ base), nats",
    "kl_to_source": "KL(source ‖ patched), nats",
    "l2_difference": "‖logits patched − base‖₂, logits",
    "prediction_change_rate": "share of changed top-1 tokens",
    "answer_logit_diff": "answer logit difference, logits",
    "answer_logit_diff_change": "change of the answer logit difference, logits",
    "clean_answer_score": "logit of the clean answer",
    "corrupted_answer_score": "logit of the corrupted answer",
    "logit_diff": "logit difference at the first differing token, logits",
    "recovery": "recovery of the logit difference (0 nothing, 1 all)",
    "logprob_clean": "log-probability of the clean answer, nats",
    "logprob_corrupted": "log-probability of the corrupted answer, nats",
    "flipped": "share of answers flipped to the source's",
    "donor_given": "share of answers that are the donor's",
    "similarity_to_clean": "cosine of the generated activation with the clean run's",
    "similarity_to_corrupted": "cosine of the generated activation with the corrupted run's",
    "bias": "cosine with clean − cosine with corrupted",
    "clean_corrupted_similarity": "cosine of the clean run's with the corrupted run's",
    "restored": "share of the displacement restored (0 nothing, 1 all)",
}
SIGNED = {
    "answer_logit_diff",
    "answer_logit_diff_change",
    "logit_diff",
    "recovery",
    "bias",
    "restored",
}
PANEL_TITLES = {
    "regenerate": "total effect: later thoughts regenerated",
    "freeze": "direct effect: later thoughts held at the base run's",
    "thoughts": "indirect effect: only the later thoughts fed on",
    "interaction": "interaction: total − direct − indirect",
    "self": "own activation (control): the base run's",
    "donor": "another pair's activation (control)",
    "noise": "random direction (control): of the same length",
    "single": "single: one position patched",
    "cumulative": "cumulative: all positions so far",
    "chained": "chained: what the last iteration generated",
    "parallel": "parallel: all positions at once",
}
"""What each map of a sweep is: its name, and behind a colon more."""
EXPERIMENTS = {
    "position_patching": "position-wise",
    "layer_patching": "layer-wise",
    "iterative_patching": "iterative",
}


def label(metric: str) -> str:
    """A metric with its unit, as axes and colour bars name it."""
    return LABELS.get(metric, metric.replace("_", " "))


def name_of(metric: str) -> str:
    """A metric's name alone, for titles and colour bars; `label` says what it is."""
    return metric.replace("_", " ").replace("kl ", "KL ")


def scope(sweep: Sweep, group: Aggregate, metric: str) -> str:
    """What is shown, of what, over how many pairs: for a figure's subtitle."""
    settings, n = sweep.settings, pairs_behind(group, metric)
    text = f"{label(metric)}; {settings.site}, {settings.direction}, n = {n} pairs"
    if n < group.n:
        text += f" ({group.n - n} left out: no recovery defined)"
    return text


def headed(
    figure: go.Figure, title: str, subtitle: str, *, width: int, body: int, extra: int = 0
) -> go.Figure:
    """Title, and subtitle broken to fit `width` pixels, above `body` pixels of figure.

    `extra` pixels stay free between the two, for titles of panels. Text is shown as it is: markup in it
    has no meaning.
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
