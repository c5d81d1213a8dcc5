"""Finished records -> one page to explore them in. It opens without a network and fetches nothing.

The page holds every metric of every cell of every pair as JSON, rounded to six significant digits, and
draws the maps itself; figures that need no choice are made by `codi_lens.plots`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from importlib.resources import files
from typing import Any

from torch import Tensor

from codi_lens import plots
from codi_lens.analysis.aggregates import Aggregate, aggregate, finite, groups
from codi_lens.analysis.comparison import LEAST, compare
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
from codi_lens.errors import UserError, one_of
from codi_lens.patching.answer_logits import sides
from codi_lens.patching.experiments.iterative import CHAINED
from codi_lens.patching.metrics import METRICS
from codi_lens.patching.result import PairOutcome, Sweep
from codi_lens.records.manifest import one_model

DIGITS = 6
"""Significant digits of the numbers in the page."""


def report(runs: Mapping[str, Sweep], manifests: Mapping[str, dict[str, Any]]) -> str:
    """The page, as HTML.

    Args:
        runs: name -> sweep, of any of the three experiments.
        manifests: name -> manifest of its record.

    Raises:
        UserError: no runs, a run without a manifest, or without pairs.
    """
    if not runs:
        raise UserError("no runs to report on")
    for name, sweep in runs.items():
        one_of(name, manifests, "manifest of run")
        if not sweep.outcomes:
            raise UserError(f"run {name} has no pairs; there is nothing to report")
    grouped = {name: _aggregates(sweep) for name, sweep in runs.items()}
    drawn = {name: _figures(sweep) for name, sweep in runs.items()}
    compared, beside = _comparison(runs, manifests) if len(runs) > 1 else (None, [])
    scales = plots.scales(
        grouped, [figure for some in (*drawn.values(), beside) for figure in some]
    )
    data: dict[str, Any] = {
        "colours": plots.colour_scales(),
        "scales": {name: [_rounded(end) for end in ends] for name, ends in scales.items()},
        "config": plots.CONFIG,
        "runs": [
            _run(name, sweep, manifests[name], grouped[name]) | {"figures": _as_json(drawn[name])}
            for name, sweep in runs.items()
        ],
        "comparison": compared and compared | {"figures": _as_json(beside)},
    }
    folder = files("codi_lens.report")
    parts = {
        "offline": plots.OFFLINE,
        "style": (folder / "page.css").read_text(encoding="utf-8"),
        "script": "".join(
            (folder / n).read_text(encoding="utf-8") for n in ("parts.js", "page.js")
        ),
        "plotly": plots.plotly_script(),
        "data": embedded(data),
    }
    return filled((folder / "page.html").read_text(encoding="utf-8"), parts)


def filled(page: str, parts: Mapping[str, str]) -> str:
    """A page with its `{{name}}`s replaced, all at once: what is put in may have such braces itself."""
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], page)


def embedded(data: Any) -> str:
    """JSON that can stand in a script element: nothing in it can close the element or open another."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _aggregates(sweep: Sweep) -> dict[str, Aggregate]:
    """By group of pairs."""
    return {
        group: aggregate(sweep, chosen) for group, chosen in groups(sweep).items() if chosen.any()
    }


def _figures(sweep: Sweep) -> list[plots.Figure]:
    """Those of its gallery that the page does not draw itself, for every metric."""
    own = [
        plots.short_name(metric) for metric in sweep.experiment.shows
    ]  # which the page draws itself
    return [f for kind, f in plots.gallery(sweep).items() if kind not in own]


def _as_json(figures: Iterable[plots.Figure]) -> list[Any]:
    return [json.loads(figure.to_json()) for figure in figures]


def _run(
    name: str, sweep: Sweep, manifest: dict[str, Any], grouped: Mapping[str, Aggregate]
) -> dict[str, Any]:
    axis, labels = columns(sweep)
    names = metric_names(sweep)
    return {
        "name": name,
        "title": f"{sweep.experiment.name.replace('_', ' ').capitalize()}: {name}",
        "brief": brief(sweep, manifest),
        "summary": summary(manifest),
        "axis": axis,
        "rows": [str(row) for row in rows(sweep)[1]],
        "row": rows(sweep)[0],
        "row_texts": [row_text(sweep, row) for row in rows(sweep)[1]],
        "columns": [str(label) for label in labels],
        "metrics": [
            {"name": n, "label": plots.label(n), "signed": METRICS[n].signed} for n in names
        ],
        "panels": [
            {"title": plots.panel_title(p), "zeros": sweep.structural_zeros(p).int().tolist()}
            for p in panels(sweep)
        ],
        "groups": {key: _group(group, sweep) for key, group in grouped.items()},
        "pairs": [_pair(outcome, sweep) for outcome in sweep.outcomes],
    }


def brief(sweep: Sweep, manifest: dict[str, Any]) -> str:
    """What a run was, in a sentence."""
    settings, counts = sweep.settings, manifest["pairs"]["n_per_group"]
    right = (
        f", {counts['competent']} with both questions answered right"
        if counts.get("competent")
        else ""
    )
    return (
        f"{manifest['model']['name']}: {sweep.experiment.heading.lower()}, {sweep.experiment.subject(settings)}, "
        f"{' × '.join(str(len(labels)) for labels in sweep.axes.values())} cells, {settings.direction}; "
        f"{len(sweep.pairs)} pairs{right}."
    )


def summary(manifest: dict[str, Any]) -> list[list[str]]:
    """What a run was, as rows of name and value."""
    model, settings, config = manifest["model"], manifest["settings"], manifest["config"]
    said = {
        "model": f"{model['name']} (SHA-256 {model['digest'][:12]}…)",
        "layers, thoughts": f"{model['num_layers']}, {settings['num_latents']}",
        "dtype, device": f"{model['dtype']}, {model['device']}",
        "pairs": f"{config.get('pairs')} (SHA-256 {manifest['pairs']['digest'][:12]}…)",
        "filter": config.get("filter"),
        "seconds": config.get("seconds"),
    }
    said |= {f"pairs: {k}": n for k, n in manifest["pairs"]["n_per_group"].items()}
    shown = (
        "site",
        "intervention",
        "effect",
        "direction",
        "answer_start",
        "min_gap",
        "controls",
        "seed",
    )
    said |= {name: settings.get(name) for name in shown}
    said |= {f"version of {k}": v for k, v in manifest["versions"].items()}
    return [[name, "–" if value is None else str(value)] for name, value in said.items()]


def _grids(values: Tensor, sweep: Sweep) -> list[list[list[float | None]]]:
    """[panel][row][column], rounded; null where a metric is not defined."""
    return [
        [[_rounded(v) for v in row] for row in as_grid(values, sweep, panel).tolist()]
        for panel in panels(sweep)
    ]


def _rounded(value: float) -> float | None:
    return finite(float(f"{value:.{DIGITS}g}"))


def _group(group: Aggregate, sweep: Sweep) -> dict[str, Any]:
    names = metric_names(sweep)
    limits = {name: threshold(sweep, group, name) for name in ranking(sweep)}
    return {
        "n": group.n,
        "n_recovery": group.n_recovery,
        "mean": {name: _grids(group.means[name], sweep) for name in names},
        "low": {name: _grids(group.low[name], sweep) for name in names},
        "high": {name: _grids(group.high[name], sweep) for name in names},
        "threshold": {k: None if v is None else _rounded(v) for k, v in limits.items()},
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


def _comparison(
    runs: Mapping[str, Sweep], manifests: Mapping[str, dict[str, Any]]
) -> tuple[dict[str, Any], list[plots.Figure]]:
    """What `codi_lens.analysis.comparison` finds, for runs that it cannot compare, why; and its figures."""
    entry: dict[str, Any] = {}
    drawn = [plots.heatmaps(runs)]
    try:
        one_model(manifests)
        found = compare(runs, {name: m["model"]["dtype"] for name, m in manifests.items()})
    except UserError as error:
        entry["refused"] = f"Not compared: {error}."
    else:
        entry["checks"] = [vars(check) for check in found.checks]
        entry["correlations"] = [[name, *astuple(c)] for name, c in found.rank_correlation.items()]
        entry["least"] = LEAST
        by_experiment = {sweep.experiment.name: sweep for sweep in runs.values()}
        drawn.append(plots.layer_profile(by_experiment))
        cells = {name: s for name, s in by_experiment.items() if len(s.axes["column"]) > 1}
        if len(cells) == 2:
            drawn.append(plots.scatter(cells, maps=_scattered(cells)))
    return entry, drawn


def _scattered(cells: Mapping[str, Sweep]) -> tuple[str, str]:
    """What of each sweep to set against the other: `single` would be the position-wise cells again."""
    one, other = (CHAINED if s.experiment.iterates else panels(s)[0] for s in cells.values())
    return one, other
