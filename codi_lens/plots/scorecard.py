"""The scorecard of methods, and what a method says of each organism, as figures.

Both take entries with the fields of `organisms.scorecard.scoring.Score`, as `as_json` gives them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch

from codi_lens.plots.panels import Panel, draw

SHOWN = {"auroc": "AUROC of |score| against the truth", "false_positives": "false positives"}
"""Figures that the scorecard shows -> titles."""


def scorecard(scores: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Methods × organisms: how well each method finds the thoughts of each mechanism."""
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


def findings(scores: Sequence[Mapping[str, Any]]) -> go.Figure:
    """What a method says of organisms, a map for each: the first result that differs × thought."""
    panels = []
    for score in scores:
        rows, values = list(score["cells"]), torch.tensor(list(score["cells"].values()))
        way = [(i, k) for i, row in enumerate(rows) for k in score["way"][row]]
        thoughts = range(values.shape[1])
        panels.append(
            Panel(
                score["organism"],
                values,
                rows,
                thoughts,
                outlined=way,
                meaning="thoughts on the way from there to the answer",
            )
        )
    methods = dict.fromkeys(score["method"] for score in scores)
    return draw(
        panels,
        title=f"{', '.join(methods).capitalize()}: what it says of each thought",
        subtitle="mean score over the pairs in which a result is the first that differs",
        colour="score",
        signed=True,
        axes=("thought", "first that differs"),
    )
