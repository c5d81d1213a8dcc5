"""The manifest of a record: settings, digests, versions, origin, memory, files."""

import hashlib
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codi_lens.analysis.aggregates import groups
from codi_lens.data.pairs import Pair, pairs_digest
from codi_lens.memory import peak_memory
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.places import served_heads
from codi_lens.patching.result import Sweep
from codi_lens.patching.settings import Settings
from codi_lens.records.origin import describe_origin

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
PACKAGES = ("codi-lens", "torch", "transformer-lens", "transformers", "peft")


def describe_run(
    experiment: str, codi: HookedCodi, pairs: Sequence[Pair], settings: Settings
) -> dict[str, Any]:
    """Everything that the results of a run depend on, known before it starts."""
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": experiment,
        "settings": asdict(settings),
        "model": describe_model(codi),
        "pairs": {"digest": pairs_digest(pairs), "n": len(pairs)},
        "versions": describe_versions(),
    }


def describe_model(codi: HookedCodi) -> dict[str, Any]:
    """A model: where it is from, how it was loaded, its shape."""
    return {
        "name": codi.name,
        "digest": codi.digest,
        "lora_alpha": codi.config.lora_alpha,
        "remove_eos": codi.config.remove_eos,
        "answer_stem": codi.config.answer_stem,
        "judge": codi.config.judge,
        "num_layers": codi.model.cfg.n_layers,
        "served_heads": served_heads(codi),
        "d_model": codi.model.cfg.d_model,
        "trained_latents": codi.config.num_latents,
        "empty_stem": not codi.tokens.stem(),
        "has_eot": bool(codi.tokens.end()),
        "sequence": codi.tokens.sequence(),
        "dtype": str(codi.model.cfg.dtype).removeprefix("torch."),
        "device": codi.loop.device.type,
    }


def describe_versions() -> dict[str, str]:
    """Versions of what the results of a run depend on."""
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}


def make_manifest(
    sweep: Sweep, codi: HookedCodi, config: dict[str, Any], planned: int, complete: bool = True
) -> dict[str, Any]:
    """The manifest of a record; `config` is what the user asked for.

    `planned` is the number of pairs that the run set out with; `complete` says whether all was done.
    """
    described = describe_run(sweep.experiment.name, codi, sweep.pairs, sweep.settings)
    numbers = {
        "n_planned": planned,
        "n_per_group": {name: int(chosen.sum()) for name, chosen in groups(sweep).items()},
    }
    device = codi.loop.device
    return described | {
        "complete": complete and len(sweep.outcomes) == planned,
        "config": config,
        "foreign_hooks": list(sweep.foreign_hooks),
        "pairs": described["pairs"] | numbers,
        "origin": describe_origin(device),
        "threads": torch.get_num_threads(),
        "peak_memory_bytes": (
            torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()
        ),
    }


def describe_file(path: Path) -> dict[str, int | str]:
    """Size and SHA-256 of a file. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def differences(
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    prefix: str = "",
    sides: tuple[str, str] = ("there", "here"),
) -> Iterator[str]:
    """What differs between two descriptions, one text per field: "model.dtype (there …, here …)".

    A digest is left out if the counts beside it differ, since they say more. A name is left out if the digests agree:
    the same content in another place is still the same.
    """
    same_content = "digest" in there and there["digest"] == here.get("digest")
    for name in sorted({*there, *here}):
        found, wanted = there.get(name), here.get(name)
        if isinstance(found, Mapping) and isinstance(wanted, Mapping):
            yield from differences(found, wanted, f"{prefix}{name}.", sides)
        elif found == wanted or (name == "name" and same_content):
            continue
        elif name != "digest" or there.get("n") == here.get("n"):
            yield f"{prefix}{name} ({sides[0]} {_shown(found)}, {sides[1]} {_shown(wanted)})"


def _shown(value: Any) -> Any:
    digest = isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)
    return f"SHA-256 {value[:12]}…" if digest else value


def tensors_digest(tensors: Sequence[Tensor]) -> str:
    """SHA-256 over the bytes of tensors."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
