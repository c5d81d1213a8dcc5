"""The record of an experiment on disk, and back.

    {experiment}_results.json        per pair: both unpatched runs, and every metric of every cell
    aggregate_statistics.json        maps over pairs with intervals, top cells, per group of pairs
    metrics.safetensors              every metric, dense: [pair, …axes]; the axes' labels in the metadata
    clean_activations.safetensors    the source run's activations [pair, layer, position, d_model]
                                     (corrupted_activations.safetensors when noising)
    generated_activations.safetensors   iterative patching: what each iteration left at the next position
    manifest.json                    settings, digests, versions, seed, times; written last

JSON has no NaN: a metric that is not defined for a pair is null.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from codi_lens.aggregates import finite
from codi_lens.codi import HookedCodi
from codi_lens.errors import UserError
from codi_lens.files import write_json, write_tensors
from codi_lens.manifest import MANIFEST, SCHEMA_VERSION, make_manifest
from codi_lens.metrics import sides
from codi_lens.outcomes import PairOutcome, RunRecord, Sweep
from codi_lens.pairs import Pair, Variant, pairs_digest
from codi_lens.plans import Label, Settings
from codi_lens.summary import aggregate_entry

AGGREGATES = "aggregate_statistics.json"
METRICS = "metrics.safetensors"
GENERATED = "generated_activations.safetensors"
CELLS = {
    "position_patching": "layer_position_results",
    "layer_patching": "layer_patching_results",
    "iterative_patching": "iterative_patching_results",
}
"""Where a pair's cells stand in the JSON of each experiment."""


def write_record(
    folder: Path, sweep: Sweep, codi: HookedCodi, config: dict[str, Any]
) -> dict[str, Path]:
    """Writes the record of `sweep` into `folder` and returns what was written, by name.

    `config` is what the user asked for, kept in the manifest beside what it resolved to.
    """
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
    paths["manifest"] = folder / MANIFEST
    write_json({paths["manifest"]: make_manifest(sweep, codi, config)})
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
        "base_run": _run_entry(outcome.base),
        "source_run": _run_entry(outcome.source),
        **_cells_entry(outcome, sweep),
    }


def _run_entry(run: RunRecord) -> dict[str, Any]:
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


def load(folder: str | Path) -> Sweep:
    """Reads a record back.

    Raises:
        UserError: no finished record there, or one of another schema version.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    stored = manifest["settings"].items()
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored}
    settings = Settings(**fields)
    with safe_open(folder / METRICS, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meta = file.metadata()
    axes = {n: tuple(json.loads(meta[n])) for n in json.loads(meta["axes"]) if n != "pair"}
    entries = json.loads((folder / f"{manifest['experiment']}_results.json").read_text())
    source = sides(settings.direction)[1]
    activations = _read_tensor(folder / f"{source}_activations.safetensors")
    generated = _read_tensor(folder / GENERATED) if (folder / GENERATED).exists() else None
    outcomes = [
        PairOutcome(
            _pair(entry),
            {name: t[i] for name, t in tensors.items() if "." not in name},
            base=_run(entry["base_run"], tensors, "base", i),
            source=_run(entry["source_run"], tensors, "source", i),
            activations=activations[i],
            generated=None if generated is None else generated[i],
            texts=_texts(entry, axes, manifest["experiment"]),
            donor=entry["donor_pair_id"],
        )
        for i, entry in enumerate(entries)
    ]
    model = manifest["model"]
    return Sweep(
        manifest["experiment"],
        settings,
        axes,
        model["num_layers"],
        model["empty_stem"],
        tuple(outcomes),
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished record.

    Raises:
        UserError: none there, or one of another schema version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder} holds no finished record: there is no {MANIFEST} in it")
    manifest: dict[str, Any] = json.loads(path.read_text())
    if manifest.get("schema_version") != SCHEMA_VERSION:
        found = manifest.get("schema_version")
        raise UserError(f"{path} has schema version {found}; this code reads {SCHEMA_VERSION}")
    return manifest


def _read_tensor(path: Path) -> Tensor:
    with safe_open(path, framework="pt") as file:
        (name,) = file.keys()
        tensor: Tensor = file.get_tensor(name)
    return tensor


def _run(entry: dict[str, Any], tensors: dict[str, Tensor], side: str, index: int) -> RunRecord:
    metrics = {
        name.removeprefix(f"{side}."): float(values[index])
        for name, values in tensors.items()
        if name.startswith(f"{side}.")
    }
    return RunRecord(metrics, entry["answer_text"], entry["correct"])


def _pair(entry: dict[str, Any]) -> Pair:
    clean, corrupted = (
        Variant(
            entry[f"{side}_question"],
            entry[f"{side}_answer"],
            tuple(entry[f"{side}_operands"]),
            tuple(entry[f"{side}_intermediates"]),
        )
        for side in ("clean", "corrupted")
    )
    return Pair(entry["pair_id"], clean, corrupted, entry["kind"], entry["operand"])


def _texts(
    entry: dict[str, Any], axes: dict[str, tuple[Label, ...]], experiment: str
) -> dict[tuple[int, ...], str]:
    """Decoded answers of the main variant's cells, by index along the axes."""
    names = {name: labels for name, labels in axes.items() if name != "variant"}
    prefix = (0,) if "variant" in axes else ()
    found: dict[tuple[int, ...], str] = {}

    def walk(below: dict[str, Any], rest: list[tuple[Label, ...]], cell: tuple[int, ...]) -> None:
        if not rest:
            if "answer_text" in below:
                found[cell] = below["answer_text"]
            return
        for i, label in enumerate(rest[0]):
            if str(label) in below:
                walk(below[str(label)], rest[1:], (*cell, i))

    for key in (CELLS[experiment], "extra_results"):
        walk(entry.get(key, {}), list(names.values()), prefix)
    return found


def reusable_activations(
    folder: Path, codi: HookedCodi, pairs: Sequence[Pair], settings: Settings
) -> list[Tensor]:
    """Source activations [layer, position, d_model] per pair, from an earlier run.

    Raises:
        UserError: the run was of another model, dtype, pairs, latents, site, direction or cells; the
            message says what differs.
    """
    manifest = read_manifest(folder)
    model, stored = manifest["model"], manifest["settings"]
    compared: dict[str, tuple[Any, Any]] = {
        "model digest": (model["digest"], codi.digest),
        "dtype": (model["dtype"], str(codi.model.cfg.dtype).removeprefix("torch.")),
        "pairs": (manifest["pairs"]["digest"], pairs_digest(pairs)),
    }
    for name in ("num_latents", "site", "direction", "layers", "positions"):
        wanted = getattr(settings, name)
        compared[name] = (stored[name], list(wanted) if isinstance(wanted, tuple) else wanted)
    differing = [
        f"{name} (there {found}, here {wanted})"
        for name, (found, wanted) in compared.items()
        if found != wanted
    ]
    if differing:
        raise UserError(f"the activations of {folder} cannot be used: " + "; ".join(differing))
    return list(_read_tensor(folder / f"{sides(settings.direction)[1]}_activations.safetensors"))
