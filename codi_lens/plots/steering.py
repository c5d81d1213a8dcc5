"""What a direction does to the answer, from little of it to much."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from codi_lens.analysis.steering import Steering
from codi_lens.plots.style import PALETTE, headed, lined

SHARES = {
    "right": "still the asked question's answer",
    "flipped": "the other question's answer",
}
"""Of `Swept`: field -> what it is a share of."""


def steering(found: Steering) -> go.Figure:
    """Shares of answers, and the mean logit difference, against the strength; the control dashed."""
    titles = ["answers", "logit difference"]
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.12)
    curves = [*SHARES.items(), ("logit_diff", "logit(other's) − logit(own)")]
    for number, (name, meaning) in enumerate(curves):
        for swept, dash, what in (
            (found.steered, "solid", meaning),
            (found.random, "dot", f"{meaning}, random vector"),
        ):
            figure.add_scatter(
                x=list(found.strengths),
                y=getattr(swept, name).nanmean(0).tolist(),
                name=what,
                mode="lines+markers",
                line={"color": PALETTE[number], "dash": dash},
                hovertemplate="strength %{x}: %{y:.3f}<extra></extra>",
                row=1,
                col=1 if name in SHARES else 2,
            )
    figure.update_xaxes(title="strength")
    figure.update_yaxes(title="share of pairs", range=[-0.03, 1.03], col=1)
    figure.update_yaxes(title="logits", col=2)
    figure.update_layout(
        margin={"l": 74, "r": 24, "b": 130},
        legend={"orientation": "h", "y": -0.25, "yanchor": "top", "x": 0, "xanchor": "left"},
    )
    subtitle = (
        f"{found.place} at {found.step}, {found.what}; n = {len(found.pairs)} pairs; "
        "dotted: a random vector of the same length"
    )
    return headed(lined(figure), "Steering", subtitle, width=900, body=430, extra=24)
