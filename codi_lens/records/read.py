"""The record of an experiment on disk, read back. `codi_lens.records.write` writes it.

    {experiment}_results.json        per pair: both unpatched runs, and every metric of every cell
    aggregate_statistics.json        maps over pairs with intervals, top cells, per group of pairs
    metrics.safetensors              every metric, dense: [pair, effect, row, column]; the labels in the metadata
    clean_activations.safetensors    the source run's activations [pair, layer, position, d_model]
                                     (corrupted_activations.safetensors when noising)
    generated_activations.safetensors   iterative patching: what each iteration left at the next position
    cells.parquet                    if asked for: every metric in long form, as `Sweep.to_dataframe` has it
    journal.jsonl                    written while the run goes on, see `codi_lens.records.journal`
    manifest.json                    settings, digests, versions, seed, times, the code's commit and the machine,
                                     and every file's size and digest; written last

JSON has no NaN: a metric that is not defined for a pair is null.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from codi_lens.data.changes import change_from
from codi_lens.data.pairs import Pair, Variant
from codi_lens.errors import UserError, command
from codi_lens.files import expand, parse_json, read_text
from codi_lens.patching.answer_logits import sides
from codi_lens.patching.experiments import Experiment, experiment_named
from codi_lens.patching.experiments.base import Axes
from codi_lens.patching.plan import Given
from codi_lens.patching.result import Cell, PairOutcome, RunRecord, Sweep
from codi_lens.patching.settings import Settings
from codi_lens.records.earlier import VERSION, translated
from codi_lens.records.manifest import (
    JOURNAL,
    MANIFEST,
    SCHEMA_VERSION,
    describe_file,
)

AGGREGATES = "aggregate_statistics.json"
METRICS = "metrics.safetensors"
GENERATED = "generated_activations.safetensors"
REQUIRED = ("experiment", "complete", "model", "pairs", "settings", "config", "versions", "files")
"""Of a manifest; those of the first schema may have no list of files."""


class RecordError(UserError):
    """A record that is not there, not finished, or damaged; names the file."""


def load(folder: str | Path, *, incomplete: bool = False) -> Sweep:
    """Reads a record back.

    Args:
        incomplete: read the record of an interrupted run too, as far as it came.

    Raises:
        RecordError: no finished record there, one of another schema version, or a damaged one.
    """
    folder = expand(folder)
    manifest = read_manifest(folder, incomplete=incomplete)
    with readable(folder):
        return _load(folder, manifest)


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turns errors from content that no record has into a `RecordError` for a damaged record."""
    try:
        yield
    except UserError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise RecordError(
            f"the record in {folder} is damaged ({type(error).__name__}: {error}); "
            "run the experiment again"
        ) from error


def _load(folder: Path, manifest: dict[str, Any]) -> Sweep:
    settings = _settings(manifest)
    verify(folder, manifest)
    tensors, meta = _read_tensors(folder / METRICS)
    experiment = experiment_named(manifest["experiment"])
    axes = experiment.axes(settings)
    shape = (-1, *map(len, axes.values()))
    path = folder / _results(manifest)
    entries = _read_json(path)
    if [entry["pair_id"] for entry in entries] != json.loads(meta["pair"]):
        raise RecordError(
            f"{path} and {METRICS} are not of the same pairs; run the experiment again"
        )
    activations, generated = _read_tensor(folder / _activations(settings)), None
    if GENERATED in _own_files(manifest):
        generated = _read_tensor(folder / GENERATED)
        generated = generated.reshape(*shape, generated.shape[-1])
    outcomes = [
        PairOutcome(
            _pair(entry),
            {name: t.reshape(shape)[i] for name, t in tensors.items() if "." not in name},
            base=_run(entry["base_run"], tensors, "base", i),
            source=_run(entry["source_run"], tensors, "source", i),
            activations=activations[i],
            generated=None if generated is None else generated[i],
            texts=_texts(entry, axes, experiment),
            donor=entry["donor_pair_id"],
        )
        for i, entry in enumerate(entries)
    ]
    model = manifest["model"]
    return Sweep(
        experiment,
        settings,
        model["num_layers"],
        model["empty_stem"],
        tuple(outcomes),
        served_heads=model.get("served_heads", 1),  # the first records are of rows without heads
        has_eot=model.get("has_eot", True),  # the first models that were supported all have one
        foreign_hooks=tuple(manifest.get("foreign_hooks", ())),
        model_digest=model["digest"],
    )


def read_manifest(folder: Path, *, incomplete: bool = False) -> dict[str, Any]:
    """The manifest of a record.

    Raises:
        RecordError: none there, one of another schema version, or of a run that is not finished.
    """
    folder = expand(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise RecordError(f"{folder} holds no finished record: there is no {MANIFEST} in it")
    manifest = _read_json(path)
    found = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if found not in (VERSION, SCHEMA_VERSION):
        known = f"{VERSION} and {SCHEMA_VERSION}"
        raise RecordError(f"{path} has schema version {found}; this code reads {known}")
    gone = [name for name in REQUIRED if name not in manifest]
    if gone and (found, gone) != (VERSION, ["files"]):
        raise RecordError(f"{path} is damaged: it has no {', '.join(gone)}")
    try:
        experiment_named(manifest["experiment"])  # the name becomes part of a path
    except UserError as error:
        raise RecordError(f"{path}: {error}") from error
    if not (manifest["complete"] or incomplete):
        pairs = manifest["pairs"]
        go_on = f"finish it with {command(manifest['experiment'], '--resume', folder)}"
        way = go_on if (folder / JOURNAL).exists() else "run the experiment again"
        raise RecordError(
            f"{folder} holds {pairs['n']} of {pairs['n_planned']} pairs, as the run was interrupted; {way}"
        )
    if found == VERSION:
        with readable(folder):
            return translated(manifest)
    return dict(manifest)


def verify(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compares all files of a record with what its manifest says was written.

    Raises:
        RecordError: a file is gone or not the one that was written, or one that every record has is not listed.
    """
    if "files" not in manifest:
        return
    with readable(folder):
        listed = manifest["files"]
        for name in sorted(_own_files(manifest) - listed.keys()):
            unlisted = f"its manifest does not list {name}"
            raise RecordError(f"{folder} is damaged: {unlisted}; run the experiment again")
        for name, written in listed.items():
            _compare(folder, name, written)


def _compare(folder: Path, name: str, written: Mapping[str, Any]) -> None:
    try:
        found = describe_file(folder / name)
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
    else:
        if found == written:
            return
        fault = "has other content than the run wrote"
        if found["bytes"] != written["bytes"]:
            fault += f" ({found['bytes']} bytes, {written['bytes']} were written)"
    raise RecordError(f"{folder} is damaged: {name} {fault}; run the experiment again")


def _own_files(manifest: Mapping[str, Any]) -> set[str]:
    """What every record of this experiment has, beside figures."""
    settings = _settings(manifest)
    plan = experiment_named(manifest["experiment"]).plan(
        settings, Given(0, manifest["model"]["num_layers"])
    )
    always = {_results(manifest), AGGREGATES, METRICS, _activations(settings)}
    return always if plan.generated is None else always | {GENERATED}


def _activations(settings: Settings) -> str:
    return f"{sides(settings.direction)[1]}_activations.safetensors"


def _results(manifest: Mapping[str, Any]) -> str:
    return f"{manifest['experiment']}_results.json"


def _settings(manifest: Mapping[str, Any]) -> Settings:
    stored = manifest["settings"].items()
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored}
    return Settings(**fields)


def _read_json(path: Path) -> Any:
    try:
        return parse_json(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"cannot read {path}: {error}") from error


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata()
    except (OSError, SafetensorError) as error:
        raise RecordError(f"cannot read {path}: {error}") from error


def _read_tensor(path: Path) -> Tensor:
    (tensor,) = _read_tensors(path)[0].values()
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
    change = change_from(entry.get("change"))
    return Pair(entry["pair_id"], clean, corrupted, entry["kind"], entry["operand"], change)


def _texts(entry: dict[str, Any], axes: Axes, experiment: Experiment) -> dict[Cell, str]:
    """The decoded answers of an entry, by the cell's index along the axes."""
    table = experiment.cells_of(entry, axes)
    found: dict[Cell, str] = {}
    for i, effect in enumerate(map(str, axes["effect"])):
        for j, row in enumerate(map(str, axes["row"])):
            columns = table.get(effect, {}).get(row, {})
            for k, column in enumerate(map(str, axes["column"])):
                if "answer_text" in (metrics := columns.get(column, {})):
                    found[i, j, k] = metrics["answer_text"]
    return found
