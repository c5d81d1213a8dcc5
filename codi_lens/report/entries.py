"""A run as JSON for the page: every metric of every cell, over pairs and pair by pair."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from codi_lens import plots
from codi_lens.analysis.aggregates import Aggregate, finite, interaction
from codi_lens.analysis.grids import (
    as_grid,
    columns,
    metric_names,
    outlined,
    panels,
    ranking,
    row_text,
    rows,
    threshold,
)
from codi_lens.choices import CONTROLS
from codi_lens.patching.answer_logits import sides
from codi_lens.patching.metrics import METRICS
from codi_lens.patching.result import PairOutcome, Sweep
from codi_lens.report import methods, words

DIGITS = 6
"""Significant digits of the numbers in the page."""
INTERACTION = "interaction"


def run_entry(
    sweep: Sweep, manifest: dict[str, Any], grouped: Mapping[str, Aggregate]
) -> dict[str, Any]:
    """All that the page draws of a run."""
    axis, labels = columns(sweep)
    group = next(iter(grouped.values()))
    return {
        "brief": words.brief(sweep, manifest),
        "found": words.found(sweep, group),
        "best": words.strongest(sweep, group),
        "summary": methods.summary(manifest),
        "axis": axis,
        "rows": [str(row) for row in rows(sweep)[1]],
        "row": rows(sweep)[0],
        "row_texts": [row_text(sweep, row) for row in rows(sweep)[1]],
        "columns": [str(label) for label in labels],
        "metrics": [
            {"name": n, "label": plots.label(n), "signed": METRICS[n].signed}
            for n in metric_names(sweep)
        ],
        "panels": _panels(sweep, group),
        "groups": {key: _group(group, sweep) for key, group in grouped.items()},
        "pairs": [_pair(outcome, sweep) for outcome in sweep.outcomes],
    }


def _panels(sweep: Sweep, group: Aggregate) -> list[dict[str, Any]]:
    """The maps of a sweep: its effects and controls, and the interaction of those that add up."""
    found = [
        {
            "name": name.replace("_", " "),
            "title": plots.panel_title(name),
            "kind": "control" if name in CONTROLS else "effect",
            "zeros": sweep.structural_zeros(name).int().tolist(),
        }
        for name in panels(sweep)
    ]
    if any(interaction(sweep, group, metric) is not None for metric in group.means):
        none = torch.zeros_like(sweep.structural_zeros(), dtype=torch.int).tolist()
        title = plots.panel_title(INTERACTION)
        found.append({"name": INTERACTION, "title": title, "kind": INTERACTION, "zeros": none})
    return found


def _group(group: Aggregate, sweep: Sweep) -> dict[str, Any]:
    names = metric_names(sweep)
    limits = {name: threshold(sweep, group, name) for name in ranking(sweep)}
    mean = {name: _grids(group.means[name], sweep) for name in names}
    for name in names:
        left = interaction(sweep, group, name)
        if left is not None:
            mean[name].append([[rounded(v) for v in row] for row in left.tolist()])
    return {
        "n": group.n,
        "n_recovery": group.n_recovery,
        "mean": mean,
        "low": {name: _grids(group.low[name], sweep) for name in names},
        "high": {name: _grids(group.high[name], sweep) for name in names},
        "threshold": {k: None if v is None else rounded(v) for k, v in limits.items()},
        "outlined": {
            name: [outlined(sweep, group, name, panel) for panel in panels(sweep)]
            for name in ranking(sweep)
        },
    }


def _pair(outcome: PairOutcome, sweep: Sweep) -> dict[str, Any]:
    pair, (base, source) = outcome.pair, sides(sweep.settings.direction)
    runs = {base: outcome.base, source: outcome.source}
    variants = {"clean": pair.clean, "corrupted": pair.corrupted}
    said: dict[str, Any] = {
        side: {
            "question": variants[side].question,
            "answer": variants[side].answer,
            "text": run.text,
            "correct": run.correct,
        }
        for side, run in runs.items()
    }
    texts: dict[str, str] = {}
    for cell, text in outcome.texts.items():
        texts["/".join(map(str, cell))] = text
    values = {name: _grids(outcome.metrics[name], sweep) for name in metric_names(sweep)}
    return {"id": pair.pair_id, **said, "texts": texts, "values": values}


def _grids(values: Tensor, sweep: Sweep) -> list[list[list[float | None]]]:
    """[panel][row][column], rounded; null where a metric is not defined."""
    return [
        [[rounded(v) for v in row] for row in as_grid(values, sweep, panel).tolist()]
        for panel in panels(sweep)
    ]


def rounded(value: float, digits: int = DIGITS) -> float | None:
    """To so many significant digits; None for NaN."""
    return finite(float(f"{value:.{digits}g}"))
