"""Shares as bars."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from codi_lens.analysis.latent_ablation import Necessity
from codi_lens.plots.style import PALETTE, headed, lined


def necessity_bars(necessity: Necessity) -> go.Figure:
    """Accuracy under every condition, with Wilson's 95% intervals.

    Fewer and fewer thoughts in one colour, thoughts that are not the question's own in another.
    """
    conditions = list(necessity.conditions.values())
    n = len(necessity.questions)
    shares = [condition.accuracy for condition in conditions]
    limits = [condition.interval for condition in conditions]
    names = [condition.name for condition in conditions]
    foreign = {f"{what} latents" for what in ("another problem's", "mean", "noise")}
    figure = go.Figure(
        go.Bar(
            x=names,
            y=shares,
            marker_color=[PALETTE[1] if name in foreign else PALETTE[0] for name in names],
            error_y=_reaches(shares, limits),
            customdata=[f"{low:.1%}, {high:.1%}" for low, high in limits],
            hovertemplate=f"%{{x}}: %{{y:.1%}} [%{{customdata}}]<br>n = {n}<extra></extra>",
        )
    )
    figure.add_scatter(
        x=names,
        y=[high + 0.03 for _, high in limits],
        text=[f"{share:.0%}" for share in shares],
        mode="text",
        hoverinfo="skip",
    )
    figure.update_layout(
        showlegend=False,
        yaxis={"title": "right answers", "tickformat": ".0%", "range": [0, 1.08]},
        xaxis={"title": "what is fed as thoughts", "tickangle": -35},
        margin={"l": 74, "r": 24, "b": 150},
        bargap=0.25,
    )
    subtitle = f"greedy answers, n = {n} questions; bars: 95% intervals"
    width = max(470, 120 + 48 * len(names))
    return headed(lined(figure), "Are the latents needed?", subtitle, width=width, body=400)


def _reaches(shares: Sequence[float], limits: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """How far each interval reaches above and below its share, as plotly has it."""
    return {
        "type": "data",
        "array": [high - share for (_, high), share in zip(limits, shares, strict=True)],
        "arrayminus": [share - low for (low, _), share in zip(limits, shares, strict=True)],
        "thickness": 1,
    }
