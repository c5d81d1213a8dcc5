"""Direct logit attribution: components as bars, and heads by the step that they attend to."""

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from codi_lens.analysis.logit_attribution import LogitAttribution
from codi_lens.plots.panels import Panel, paint, place
from codi_lens.plots.style import PALETTE, colour_axis, headed, small_titles

MANY_COMPONENTS = 60
"""Above this many, the heads of a layer are one row."""


def logit_attribution(found: LogitAttribution) -> go.Figure:
    """Mean parts of all components as bars, and beside each head's the groups of tokens that its part comes from."""
    found = found if len(found.components) <= MANY_COMPONENTS else found.by_layer()
    rows, mean = found.components, found.mean().double()
    sources = torch.full((len(rows), len(found.groups)), torch.nan, dtype=torch.float64)
    sources[[rows.index(head) for head in found.heads]] = found.mean_by_source().double()
    figure = make_subplots(
        1,
        2,
        subplot_titles=["each component", "heads, by what they attend to"],
        column_widths=[0.32, 0.68],
        horizontal_spacing=0.03,
        shared_yaxes=True,
    )
    scale = colour_axis([sources], signed=True, title="logits")
    said = [
        [f"{row}, {group}: {v:.4g}" for group, v in zip(found.groups, line, strict=True)]
        for row, line in zip(rows, sources.tolist(), strict=True)
    ]
    panel = Panel("", sources, rows, found.groups, hover=said)
    place(figure, panel, 1, 2, ("attended to", ""), True)
    paint(figure.update_layout(coloraxis=scale), scale["cmin"], scale["cmax"])
    figure.add_bar(
        x=mean.tolist(),
        y=list(range(len(rows))),
        orientation="h",
        marker_color=[PALETTE[0] if value >= 0 else PALETTE[1] for value in mean.tolist()],
        customdata=list(rows),
        hovertemplate="%{customdata}: %{x:.4g}<extra></extra>",
        row=1,
        col=1,
    )
    figure.update_xaxes(title="logits", zeroline=True, zerolinecolor="#888888", row=1, col=1)
    ticks = {"tickvals": list(range(len(rows))), "ticktext": list(rows)}
    figure.update_yaxes(title={"text": "component", "standoff": 4}, showgrid=False, **ticks, col=1)
    figure.update_layout(
        showlegend=False, plot_bgcolor="white", margin={"l": 110, "r": 110, "b": 66}, bargap=0.3
    )
    subtitle = (
        f"what each adds directly to the {found.unit}, which is {float(found.totals.mean()):.2f}; mean over "
        f"n = {len(found.examples)}"
    )
    body = max(300, 22 * len(rows) + 120)
    return headed(
        small_titles(figure), "Direct logit attribution", subtitle, width=980, body=body, extra=26
    )
