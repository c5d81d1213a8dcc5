"""Interchange intervention accuracy by place and result."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch

from codi_lens.plots.panels import Panel, draw

KINDS = {"iia": "learned subspace", "whole": "whole vector", "random": "random subspace"}


def subspaces(cells: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Maps of IIA, (result, row) × position: of the learned subspace, of the whole vector, and of a random subspace.

    Args:
        cells: entries with "result", "row", "column", and the three accuracies "iia", "whole" and "random".
    """
    rows = list(dict.fromkeys((cell["result"], cell["row"]) for cell in cells))[::-1]
    columns = list(dict.fromkeys(cell["column"] for cell in cells))
    several = len({row for _, row in rows}) > 1
    names = [f"{result}, {row}" if several else result for result, row in rows]
    panels = []
    for kind, title in KINDS.items():
        values = torch.full((len(rows), len(columns)), torch.nan)
        for cell in cells:
            place = rows.index((cell["result"], cell["row"])), columns.index(cell["column"])
            values[place] = cell[kind]
        panels.append(Panel(title, values, names, columns))
    counts = sorted({cell["n"] for cell in cells})
    return draw(
        panels,
        title="Where is a result held? Interchange intervention accuracy",
        subtitle="share of held-out examples in which exchanging it makes the answer follow the other question's result; "
        f"n = {', '.join(map(str, counts))}",
        colour="IIA",
        signed=False,
        axes=("position", "result"),
    )
