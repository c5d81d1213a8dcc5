"""The record of a sweep on disk: what was measured, on what, with what.

    position_patching_results.json   per pair and cell: every metric; per pair: both unpatched runs
    aggregate_statistics.json        maps over pairs, top cells, per group of pairs
    clean_activations.safetensors    the source run's activations [pair, layer, position, d_model]
                                     (corrupted_activations.safetensors when noising)
    manifest.json                    settings, digests, versions, seed, times; written last

JSON has no NaN: a metric that is not defined for a pair is null.
"""

import platform
import resource
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from codi_lens.aggregates import (
    Aggregate,
    aggregate,
    as_mapping,
    by_operand,
    competent,
    finite,
    top_cells,
)
from codi_lens.codi import HookedCodi
from codi_lens.files import write_json, write_tensors
from codi_lens.metrics import sides
from codi_lens.pairs import pairs_digest
from codi_lens.sweeps import PairOutcome, RunRecord, Sweep

SCHEMA_VERSION = 1
RESULTS = "position_patching_results.json"
AGGREGATES = "aggregate_statistics.json"
MANIFEST = "manifest.json"
PACKAGES = ("codi-lens", "torch", "transformer-lens", "transformers", "peft")


def write_record(
    folder: Path, sweep: Sweep, codi: HookedCodi, config: dict[str, Any]
) -> dict[str, Path]:
    """Writes the record of `sweep` into `folder` and returns what was written, by name.

    `config` is what the user asked for, kept in the manifest beside what it resolved to.
    """
    source = sides(sweep.settings.direction)[1]
    paths = {
        "results": folder / RESULTS,
        "aggregates": folder / AGGREGATES,
        "activations": folder / f"{source}_activations.safetensors",
        "manifest": folder / MANIFEST,
    }
    write_json(
        {
            paths["results"]: [pair_entry(outcome, sweep) for outcome in sweep.outcomes],
            paths["aggregates"]: aggregate_entry(sweep),
        }
    )
    activations = torch.stack([outcome.activations for outcome in sweep.outcomes])
    axes = {
        "axes": "pair,layer,position,d_model",
        "pair": ",".join(str(pair.pair_id) for pair in sweep.pairs),
        "layer": ",".join(map(str, sweep.settings.layers)),
        "position": ",".join(map(str, sweep.settings.positions)),
        "site": "resid_post",
    }
    write_tensors(paths["activations"], {f"{source}_activations": activations}, axes)
    write_json({paths["manifest"]: manifest(sweep, codi, config)})
    return paths


def pair_entry(outcome: PairOutcome, sweep: Sweep) -> dict[str, Any]:
    """One pair of `position_patching_results.json`."""
    pair, settings = outcome.pair, sweep.settings
    cells = {
        str(layer): {
            str(position): {
                name: finite(float(values[i, j])) for name, values in outcome.metrics.items()
            }
            for j, position in enumerate(settings.positions)
        }
        for i, layer in enumerate(settings.layers)
    }
    return {
        "pair_id": pair.pair_id,
        "clean_question": pair.clean.question,
        "corrupted_question": pair.corrupted.question,
        "clean_answer": pair.clean.answer,
        "corrupted_answer": pair.corrupted.answer,
        "same_answer": pair.same_answer,
        "kind": pair.kind,
        "operand": pair.operand,
        "base_run": _run_entry(outcome.base),
        "source_run": _run_entry(outcome.source),
        "layer_position_results": cells,
    }


def _run_entry(run: RunRecord) -> dict[str, Any]:
    metrics = {name: finite(value) for name, value in run.metrics.items()}
    return {"answer_text": run.text, "correct": run.correct, "metrics": metrics}


def aggregate_entry(sweep: Sweep) -> dict[str, Any]:
    """`aggregate_statistics.json`: all pairs at the top, and each group of pairs."""
    groups = {"all": aggregate(sweep), "competent": aggregate(sweep, competent(sweep))}
    groups |= {f"operand {name}": value for name, value in by_operand(sweep).items()}
    whole = groups["all"]
    entry = _group_entry(whole, sweep)
    return {
        "layer_position_kl_means": entry["layer_position_means"]["kl_divergence"],
        "layer_position_ans_diff_means": entry["layer_position_means"]["answer_logit_diff"],
        **{key: entry[key] for key in ("top_5_critical", "top_5_by_recovery")},
        "groups": {name: _group_entry(group, sweep) for name, group in groups.items()},
    }


def _group_entry(group: Aggregate, sweep: Sweep) -> dict[str, Any]:
    settings, zeros = sweep.settings, sweep.structural_zeros()

    def cells(by: str) -> list[dict[str, Any]]:
        return [
            {
                "layer": settings.layers[i],
                "position": settings.positions[j],
                "kl_div": finite(float(group.means["kl_divergence"][i, j])),
                "ans_diff": finite(float(group.means["answer_logit_diff"][i, j])),
                "recovery": finite(float(group.means["recovery"][i, j])),
            }
            for i, j in top_cells(group.means[by], zeros)
        ]

    def mapped(values: torch.Tensor) -> dict[str, dict[str, float | None]]:
        return as_mapping(values, settings.layers, settings.positions)

    return {
        "n": group.n,
        "n_recovery": group.n_recovery,
        "layer_position_means": {name: mapped(values) for name, values in group.means.items()},
        "layer_position_recovery_median": mapped(group.recovery_median),
        "top_5_critical": cells("kl_divergence"),
        "top_5_by_recovery": cells("recovery"),
    }


def manifest(sweep: Sweep, codi: HookedCodi, config: dict[str, Any]) -> dict[str, Any]:
    """Everything needed to know what a record is a record of."""
    settings = sweep.settings
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": "position_patching",
        "config": config,
        "settings": {
            "site": "resid_post",
            "layers": list(settings.layers),
            "positions": list(settings.positions),
            "num_latents": settings.num_latents,
            "mode": settings.mode,
            "direction": settings.direction,
            "min_gap": settings.min_gap,
        },
        "model": {
            "name": codi.name,
            "digest": codi.digest,
            "num_layers": codi.model.cfg.n_layers,
            "d_model": codi.model.cfg.d_model,
            "trained_latents": codi.config.num_latents,
            "dtype": str(codi.model.cfg.dtype).removeprefix("torch."),
            "device": str(codi.loop.device),
        },
        "pairs": {
            "digest": pairs_digest(sweep.pairs),
            "n": len(sweep.pairs),
            "n_competent": int(competent(sweep).sum()),
            "n_same_answer": sum(pair.same_answer for pair in sweep.pairs),
        },
        "versions": {name: version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "peak_memory_bytes": peak_memory(codi.loop.device),
    }


def peak_memory(device: torch.device) -> int:
    """Largest memory that this process has held: of the GPU where one is used, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
