"""The record of an experiment on disk, read back. `codi_lens.records.write` writes it.

    {experiment}_results.json        per pair: both unpatched runs, and every metric of every cell
    aggregate_statistics.json        maps over pairs with intervals, top cells, per group of pairs
    metrics.safetensors              every metric, dense: [pair, effect, row, column]; the labels in the metadata
    clean_activations.safetensors    the source run's activations [pair, layer, position, d_model]
                                     (corrupted_activations.safetensors when noising)
    generated_activations.safetensors   iterative patching: what each iteration left at the next position
    journal.jsonl                    written while the run goes on, see `codi_lens.records.journal`
    manifest.json                    settings, digests, versions, seed, times, and every file's size and digest;
                                     written last

JSON has no NaN: a metric that is not defined for a pair is null.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from codi_lens.data.pairs import Pair, Variant
from codi_lens.errors import UserError, command
from codi_lens.files import expand, parse_json, read_text
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.answer_logits import sides
from codi_lens.patching.experiments import Experiment, experiment_named
from codi_lens.patching.experiments.base import Axes
from codi_lens.patching.result import Cell, PairOutcome, RunRecord, Sweep
from codi_lens.patching.settings import Settings
from codi_lens.records.earlier import VERSION, translated
from codi_lens.records.manifest import (
    JOURNAL,
    MANIFEST,
    SCHEMA_VERSION,
    describe_file,
    describe_run,
    differences,
)

AGGREGATES = "aggregate_statistics.json"
METRICS = "metrics.safetensors"
GENERATED = "generated_activations.safetensors"
REQUIRED = ("experiment", "complete", "model", "pairs", "settings", "config", "versions")
"""Of a manifest."""


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
    with _readable(folder):
        return _load(folder, manifest)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
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
    source = f"{sides(settings.direction)[1]}_activations.safetensors"
    verify(folder, manifest, {_results(manifest), METRICS, source, GENERATED})
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
    activations, generated = _read_tensor(folder / source), None
    if (folder / GENERATED).exists():
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
        has_eot=model.get("has_eot", True),  # the first models that were supported all have one
        foreign_hooks=tuple(manifest.get("foreign_hooks", ())),
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
    if gone:
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
        with _readable(folder):
            return translated(manifest)
    return dict(manifest)


def verify(folder: Path, manifest: Mapping[str, Any], names: Collection[str] | None = None) -> None:
    """Compares the files of a record with what its manifest says was written; all of them, or `names`.

    Manifests of earlier versions do not say it.

    Raises:
        RecordError: a file is gone, or not the one that was written.
    """
    listed = manifest.get("files", {})
    needed = set(names or ()) if "files" in manifest else set()
    if missing := sorted(name for name in needed - set(listed) if (folder / name).exists()):
        unlisted = f"its manifest does not list {missing[0]}"
        raise RecordError(f"{folder} is damaged: {unlisted}; run the experiment again")
    for name, written in listed.items():
        path, whole = folder / name, names is None or name in names
        try:
            found = describe_file(path) if whole else {"bytes": path.stat().st_size}
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
        else:
            if found == {field: written[field] for field in found}:
                continue
            fault = "has other content than the run wrote"
            if found["bytes"] != written["bytes"]:
                fault += f" ({found['bytes']} bytes, {written['bytes']} were written)"
        raise RecordError(f"{folder} is damaged: {name} {fault}; run the experiment again")


def _results(manifest: Mapping[str, Any]) -> str:
    return f"{manifest['experiment']}_results.json"


def _settings(manifest: dict[str, Any]) -> Settings:
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
    return Pair(entry["pair_id"], clean, corrupted, entry["kind"], entry["operand"])


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


def reusable_activations(
    folder: Path, codi: HookedCodi, pairs: Sequence[Pair], settings: Settings
) -> list[Tensor]:
    """Source activations [layer, position, d_model] per pair, from an earlier run.

    Raises:
        RecordError: no finished record there.
        UserError: the run was of another model, dtype, pairs, latents, site, direction or cells; the
            message says what differs.
    """
    folder = expand(folder)
    there = read_manifest(folder)
    here = json.loads(json.dumps(describe_run(there["experiment"], codi, pairs, settings)))
    # Of the settings, what the earlier run told: older records say less of the model.
    here["model"] = {name: here["model"].get(name) for name in there["model"]}
    with _readable(folder):
        differing = list(differences(_decisive(there), _decisive(here)))
        if there["pairs"]["digest"] != here["pairs"]["digest"]:
            differing.append(_pairs_apart(folder, there, pairs))
    if differing:
        raise UserError(f"the activations of {folder} cannot be used: " + "; ".join(differing))
    name = f"{sides(settings.direction)[1]}_activations.safetensors"
    verify(folder, there, {name})
    return list(_read_tensor(folder / name))


def _pairs_apart(folder: Path, manifest: dict[str, Any], pairs: Sequence[Pair]) -> str:
    """How the pairs of a record differ from `pairs`, in words."""
    there = [_pair(entry) for entry in _read_json(folder / _results(manifest))]
    if len(there) != len(pairs):
        return f"{len(there)} pairs there, {len(pairs)} here"
    apart = [pair.pair_id for pair, found in zip(pairs, there, strict=True) if pair != found]
    shown = ", ".join(map(str, apart[:5])) + (", …" if len(apart) > 5 else "")
    return f"{len(apart)} of {len(pairs)} pairs are others there (here: pairs {shown})"


def _decisive(described: dict[str, Any]) -> dict[str, Any]:
    """What source activations depend on."""
    names = ("num_latents", "site", "direction", "layers", "positions")
    settings = ("lora_alpha", "remove_eos", "sequence")
    return {
        "model digest": described["model"]["digest"],
        "dtype": described["model"]["dtype"],
        **{name: described["model"].get(name) for name in settings},
    } | {name: described["settings"][name] for name in names}
