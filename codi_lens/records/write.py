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
from codi_lens.data.changes import change_as_json
from codi_lens.data.pairs import Variant
from codi_lens.files import expand, write_bytes, write_json, write_tensors
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.answer_logits import sides
from codi_lens.patching.result import Cell, PairOutcome, RunRecord, Sweep
from codi_lens.patching.settings import Label
from codi_lens.records.manifest import MANIFEST, describe_file, make_manifest
from codi_lens.records.read import AGGREGATES, GENERATED, METRICS


def write_record(
    folder: Path,
    sweep: Sweep,
    codi: HookedCodi,
    config: dict[str, Any],
    *,
    pages: Mapping[str, str | bytes] = MappingProxyType({}),
    planned: int | None = None,
    complete: bool = True,
) -> dict[str, Path]:
    """Writes the record of `sweep` into `folder` and returns what was written, by name.

    Args:
        config: what the user asked for, kept in the manifest beside what it resolved to.
        pages: file name -> content of further files of the record, such as figures and tables.
        planned: pairs that the run set out with, if that is more than `sweep` has.
        complete: whether all was done that the run set out to do.
    """
    folder = expand(folder)
    source = sides(sweep.settings.direction)[1]
    paths = {
        "results": folder / f"{sweep.experiment.name}_results.json",
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
    for name, content in pages.items():
        paths[name] = folder / name
        write_bytes(paths[name], content if isinstance(content, bytes) else content.encode())
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
        asked: Variant = getattr(pair, side)
        entry |= {f"{side}_{field}": value for field, value in asdict(asked).items()}
    return entry | {
        "same_answer": pair.same_answer,
        "kind": pair.kind,
        "operand": pair.operand,
        **({} if pair.change is None else {"change": change_as_json(pair.change)}),
        "donor_pair_id": outcome.donor,
        "base_run": run_entry(outcome.base),
        "source_run": run_entry(outcome.source),
        **sweep.experiment.tabulate(_cells(outcome, sweep)),
    }


def run_entry(run: RunRecord) -> dict[str, Any]:
    """An unpatched run, as JSON has it."""
    metrics = {name: finite(value) for name, value in run.metrics.items()}
    return {"answer_text": run.text, "correct": run.correct, "metrics": metrics}


def _cells(outcome: PairOutcome, sweep: Sweep) -> dict[str, dict[str, dict[str, Any]]]:
    """{effect: {row: {column: {metric: value}}}}; cells that no run stands for are left out."""

    def columns(i: int, j: int) -> dict[str, Any]:
        entries = {
            str(label): _cell(outcome, (i, j, k)) for k, label in enumerate(sweep.axes["column"])
        }
        return {label: entry for label, entry in entries.items() if entry}

    def rows(i: int) -> dict[str, dict[str, Any]]:
        found = {str(label): columns(i, j) for j, label in enumerate(sweep.axes["row"])}
        return {label: entries for label, entries in found.items() if entries}

    return {str(label): rows(i) for i, label in enumerate(sweep.axes["effect"])}


def _cell(outcome: PairOutcome, cell: Cell) -> dict[str, Any]:
    """All metrics of a cell, and its answer where it was decoded; nothing where there is no run."""
    values = {name: float(value[cell]) for name, value in outcome.metrics.items()}
    if values["kl_divergence"] != values["kl_divergence"]:
        return {}
    entry: dict[str, Any] = {name: finite(value) for name, value in values.items()}
    return entry | ({"answer_text": outcome.texts[cell]} if cell in outcome.texts else {})
