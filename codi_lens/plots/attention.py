"""Attention from the steps of the loop: to groups of tokens, and to the tokens of one question."""

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.attention import Attention, MeanAttention
from codi_lens.analysis.positions import group_of
from codi_lens.plots.panels import MANY_COLUMNS, Panel, draw
from codi_lens.plots.tensors import shown

MANY_HEADS = 48
"""Above this many heads in all, a row is the mean over a layer's."""


def attention(found: MeanAttention) -> go.Figure:
    """A map for each step: how much its heads (of many, the mean over a layer's) attend to every group."""
    layers, heads = found.weights.shape[:2]
    by_head = layers * heads <= MANY_HEADS
    values = found.weights.flatten(0, 1) if by_head else found.weights.mean(1)
    rows = (
        [f"{layer}.{head}" for layer in range(layers) for head in range(heads)]
        if by_head
        else range(layers)
    )
    panels = [
        Panel(f"from {group_of(step)}", _seen(values[:, i]), rows, found.groups)
        for i, step in enumerate(found.steps)
    ]
    kind = "by head" if by_head else "mean over the heads of each layer"
    return draw(
        panels,
        title="Attention from each step",
        subtitle=f"share of attention that goes to a group of tokens, {kind}, n = {found.n} questions; "
        "grey: later than the step",
        colour="share",
        signed=False,
        axes=("attended to", "head" if by_head else "layer"),
        cell=(32, 19) if len(found.groups) <= MANY_COLUMNS else (22, 14),
    )


def attention_to_tokens(
    found: Attention, *, layer: int | None = None, head: int | None = None
) -> go.Figure:
    """One map, step × token, of one question; `layer` and `head` as in `Attention.of`."""
    which = ", ".join(
        f"{name} {at}" if at is not None else f"mean over {name}s"
        for name, at in (("layer", layer), ("head", head))
    )
    labels = [shown(label) for label in found.positions.labels]
    steps = [group_of(step) for step in found.steps]
    return draw(
        [Panel("", torch.cat([_seen(row[None]) for row in found.of(layer, head)]), steps, labels)],
        title="Attention from each step to every token",
        subtitle=f"share of attention, {which}; grey: later than the step",
        colour="share",
        signed=False,
        axes=("attended to", "from"),
        cell=(20, 26),
    )


def _seen(weights: Float[Tensor, "row to"]) -> Float[Tensor, "row to"]:
    """NaN for what comes later than the step, which no row gives any weight."""
    return weights.where((weights > 0).any(0), torch.nan)
