"""Tensors that are no sweep: `imshow` for anything, and what the logit lens reads."""

from collections.abc import Sequence
from html import escape
from math import log10
from typing import Any

import plotly.express as px
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from torch import Tensor

from codi_lens.patching.settings import Label
from codi_lens.plots.figure import helpful
from codi_lens.plots.panels import Panel, draw, paint
from codi_lens.plots.style import DIVERGING


def imshow(
    tensor: Float[Tensor, "..."], *, facet_labels: Sequence[str] = (), **options: Any
) -> go.Figure:
    """A tensor as an image: diverging colours around zero, everything else as in `plotly.express.imshow`.

    Args:
        tensor: [row, column], or [facet, row, column] with `facet_col=0`.
        facet_labels: titles of the facets.
        options: `labels={"x": …, "y": …, "color": …}`, `x`, `y`, `title`, `zmin`, `zmax`, …
    """
    settings: dict[str, Any] = {"color_continuous_scale": DIVERGING, "aspect": "auto"}
    if not {"zmin", "zmax", "range_color"} & set(options):
        settings["color_continuous_midpoint"] = 0.0
    figure = helpful(px.imshow(tensor.detach().float().cpu().numpy(), **(settings | options)))
    if facet_labels:
        for annotation in figure.layout.annotations:
            # plotly.express names a facet "axis=index", and has wrapped rows in an order of its own.
            annotation.text = escape(facet_labels[int(annotation.text.split("=")[-1])])
    return figure


def top_tokens(
    tokens: Sequence[Sequence[Sequence[tuple[str, float]]]],
    *,
    rows: Sequence[Label],
    columns: Sequence[Label],
    title: str = "Logit lens: most likely next token",
    axes: tuple[str, str] = ("step", "layer"),
) -> go.Figure:
    """A table of top tokens: the first written in the cell, its probability the colour, the rest on hover.

    Args:
        tokens: [row][column] -> (token, probability), most likely first, as `lens.top_tokens` gives.
        rows, columns: labels.
        title: of the figure.
        axes: titles of x and y.
    """
    panel = Panel(
        "",
        torch.tensor([[cell[0][1] for cell in row] for row in tokens]),
        rows,
        columns,
        text=[[shown(cell[0][0]) for cell in row] for row in tokens],
        hover=[
            ["<br>".join(f"{shown(token)}  {share:.3f}" for token, share in cell) for cell in row]
            for row in tokens
        ],
    )
    subtitle = "written: the most likely token; hover for the ones behind it"
    figure = draw(
        [panel], title=title, subtitle=subtitle, colour="probability", signed=False, axes=axes
    )
    paint(figure, 0, 1)
    return figure


def ranks(
    values: dict[str, Int[Tensor, "layer step"]],
    *,
    rows: Sequence[Label],
    columns: Sequence[Label],
    title: str = "Logit lens: rank of each result on the way (1: most likely)",
) -> go.Figure:
    """Ranks of known numbers among all tokens, a panel each; colour on a logarithmic scale."""
    drawn = [
        Panel(
            name,
            -table.double().log10(),
            rows,
            columns,
            text=[[str(rank) for rank in row] for row in table.tolist()],
            hover=[[f"rank {rank}" for rank in row] for row in table.tolist()],
        )
        for name, table in values.items()
    ]
    figure = draw(
        drawn,
        title=title,
        subtitle="written: the rank among all tokens",
        colour="rank",
        signed=False,
        axes=("step", "layer"),
    )
    worst = max(int(table.max()) for table in values.values())
    marks = [10**power for power in range(int(log10(worst)) + 1)]
    figure.update_coloraxes(
        colorbar={"tickvals": [-log10(mark) for mark in marks], "ticktext": [str(m) for m in marks]}
    )
    return figure


def shown(token: str) -> str:
    """A token as text: blanks visible, nothing read as markup."""
    return escape(token.replace(" ", "␣").replace("\n", "⏎")) or "∅"
