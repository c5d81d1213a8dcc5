"""The scorecard of methods as a figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch

from codi_lens.plots.panels import Panel, draw

SHOWN = {"auroc": "AUROC of |score| against the truth", "false_positives": "false positives"}
"""Figures that the scorecard shows -> titles."""


def scorecard(scores: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Methods × organisms: how well each method finds the thoughts of each mechanism.

    Args:
        scores: entries with "method", "organism" and the figures of `organisms.scorecard.scoring.Score`.
    """
    # The first method stands at the top.
    methods = list(dict.fromkeys(score["method"] for score in scores))[::-1]
    organisms = list(dict.fromkeys(score["organism"] for score in scores))
    panels = []
    for name, title in SHOWN.items():
        values = torch.full((len(methods), len(organisms)), torch.nan)
        for score in scores:
            cell = methods.index(score["method"]), organisms.index(score["organism"])
            values[cell] = torch.nan if score[name] is None else score[name]
        panels.append(Panel(title, values, methods, organisms))
    figure = draw(
        panels,
        title="Scorecard: do methods find what was planted?",
        subtitle="(result, thought) cells of models whose mechanism is known; AUROC: 1 all found, 0.5 as good as guessing; "
        "false positives: share of cells outside the mechanism that the method claims; grey: not defined",
        colour="share",
        signed=False,
        axes=("organism", "method"),
    )
    return figure.update_xaxes(tickangle=-45)
