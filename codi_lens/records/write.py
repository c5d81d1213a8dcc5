"""Writing the record of an experiment; `codi_lens.records.read` says what is in it, and reads it back."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from codi_lens.analysis.aggregates import finite
from codi_lens.analysis.summary import aggregate_entry
from codi_lens.data.pairs import Variant
from codi_lens.files import expand, write_json, write_tensors, write_text
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.metrics import sides
from codi_lens.patching.plans import Label
from codi_lens.patching.result import PairOutcome, RunRecord, Sweep
from codi_lens.records.manifest import MANIFEST, describe_file, make_manifest
from codi_lens.records.read import AGGREGATES, CELLS, GENERATED, METRICS


def write_record(
    folder: Path,
    sweep: Sweep,
    codi: HookedCodi,
    config: dict[str, Any],
    *,
    pages: Mapping[str, str] = MappingProxyType({}),
    planned: int | None = None,
    complete: bool = True,
) -> dict[str, Path]:
    """Writes the record of `sweep` into `folder` and returns what was written, by name.

    Args:
        config: what the user asked for, kept in the manifest beside what it resolved to.
        pages: file name -> text of further files of the record, such as figures.
        planned: pairs that the run set out with, if that is more than `sweep` has.
        complete: whether all was done that the run set out to do.
    """
    folder = expand(folder)
    source = sides(sweep.settings.direction)[1]
    paths = {
        "results": folder / f"{sweep.experiment}_results.json",
        "aggregates": folder / AGGREGATES,
        "metrics": folder / METRICS,
        "activations": folder / f"{source}_activations.safetensors",
    }
    entries = [pair_entry(outcome, sweep) for outcome in sweep.outcomes]
    write_json({paths["results"]: entries, paths["aggregates"]: aggregate_entry(sweep)})
    write_tensors(paths["metrics"], _dense(sweep), _labels(sweep, sweep.axes))
    grid = {"layer": sweep.settings.layers, "position": sweep.settings.positions}
    activations = torch.stack([outcome.activations for outcome in sweep.outcomes])
    write_tensors(
        paths["activations"], {f"{source}_activations": activations}, _labels(sweep, grid)
    )
    generated = [o.generated for o in sweep.outcomes if o.generated is not None]
    if generated:
        paths["generated"] = folder / GENERATED
        tensors = {"generated_activations": torch.stack(generated)}
        write_tensors(paths["generated"], tensors, _labels(sweep, sweep.axes))
    for name, text in pages.items():
        paths[name] = folder / name
        write_text(paths[name], text)
    planned = len(sweep.outcomes) if planned is None else planned
    manifest = make_manifest(sweep, codi, config, planned, complete)
    manifest["files"] = {path.name: describe_file(path) for path in paths.values()}
    paths["manifest"] = folder / MANIFEST
    write_json({paths["manifest"]: manifest})
    return paths


def _labels(sweep: Sweep, axes: dict[str, tuple[Label, ...]]) -> dict[str, str]:
    """Metadata of a tensor file: the names of its axes in order, and each axis' labels, as JSON."""
    named = {"pair": [pair.pair_id for pair in sweep.pairs]} | {k: list(v) for k, v in axes.items()}
    return {"axes": json.dumps(list(named)), "site": sweep.settings.site} | {
        name: json.dumps(labels) for name, labels in named.items()
    }


def _dense(sweep: Sweep) -> dict[str, Tensor]:
    tensors = {name: sweep.values(name) for name in sweep.outcomes[0].metrics}
    for side in ("base", "source"):
        runs: list[RunRecord] = [getattr(outcome, side) for outcome in sweep.outcomes]
        for name in runs[0].metrics:
            values = [run.metrics[name] for run in runs]
            tensors[f"{side}.{name}"] = torch.tensor(values, dtype=torch.float64)
    return tensors


def pair_entry(outcome: PairOutcome, sweep: Sweep) -> dict[str, Any]:
    """One pair of the results file."""
    pair = outcome.pair
    entry: dict[str, Any] = {"pair_id": pair.pair_id}
    for side in ("clean", "corrupted"):
        variant: Variant = getattr(pair, side)
        entry |= {f"{side}_{field}": value for field, value in asdict(variant).items()}
    return entry | {
        "same_answer": pair.same_answer,
        "kind": pair.kind,
        "operand": pair.operand,
        "donor_pair_id": outcome.donor,
        "base_run": run_entry(outcome.base),
        "source_run": run_entry(outcome.source),
        **_cells_entry(outcome, sweep),
    }


def run_entry(run: RunRecord) -> dict[str, Any]:
    """An unpatched run, as JSON has it."""
    metrics = {name: finite(value) for name, value in run.metrics.items()}
    return {"answer_text": run.text, "correct": run.correct, "metrics": metrics}


def _cells_entry(outcome: PairOutcome, sweep: Sweep) -> dict[str, Any]:
    """The cells of the main variant under the experiment's own key, the other variants beside them."""
    name, axes = CELLS[sweep.experiment], dict(sweep.axes)
    variants = axes.pop("variant", (None,))
    entries = {}
    for i, variant in enumerate(variants):
        prefix = () if variant is None else (i,)
        entries[variant] = _nested(outcome, axes, prefix)
    main, *others = entries
    cells = entries[main]
    entry: dict[str, Any] = {name: cells}
    if "position" in axes:
        plain = {k: v for k, v in cells.items() if k.isdecimal()}
        entry[name] = {k: {c: m for c, m in v.items() if c.isdecimal()} for k, v in plain.items()}
        extra = {
            row: {c: m for c, m in columns.items() if not (row.isdecimal() and c.isdecimal())}
            for row, columns in cells.items()
        }
        entry["extra_results"] = {row: columns for row, columns in extra.items() if columns}
    if others:
        entry["variants"] = {str(variant): entries[variant] for variant in others}
    return entry


def _nested(
    outcome: PairOutcome, axes: dict[str, tuple[Label, ...]], cell: tuple[int, ...]
) -> dict[str, Any]:
    """{label: … {metric: value}} below `cell`; cells that no row stands for are left out."""
    if not axes:
        values = {name: float(value[cell]) for name, value in outcome.metrics.items()}
        if values["kl_divergence"] != values["kl_divergence"]:
            return {}
        entry: dict[str, Any] = {name: finite(value) for name, value in values.items()}
        return entry | ({"answer_text": outcome.texts[cell]} if cell in outcome.texts else {})
    (_, labels), *rest = axes.items()
    below = {str(label): _nested(outcome, dict(rest), (*cell, i)) for i, label in enumerate(labels)}
    return {label: entry for label, entry in below.items() if entry}
