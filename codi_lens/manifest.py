"""What a record is a record of: settings, digests, versions, memory."""

import hashlib
import platform
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from codi_lens.aggregates import groups
from codi_lens.codi import HookedCodi
from codi_lens.outcomes import Sweep
from codi_lens.pairs import Pair, pairs_digest
from codi_lens.plans import Settings

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
PACKAGES = ("codi-lens", "torch", "transformer-lens", "transformers", "peft")


def describe_run(
    experiment: str, codi: HookedCodi, pairs: Sequence[Pair], settings: Settings
) -> dict[str, Any]:
    """What is run, known before it runs: everything that its results depend on."""
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": experiment,
        "settings": asdict(settings),
        "model": {
            "name": codi.name,
            "digest": codi.digest,
            "lora_alpha": codi.config.lora_alpha,
            "remove_eos": codi.config.remove_eos,
            "answer_stem": codi.config.answer_stem,
            "num_layers": codi.model.cfg.n_layers,
            "d_model": codi.model.cfg.d_model,
            "trained_latents": codi.config.num_latents,
            "empty_stem": not codi.tokens.stem(),
            "dtype": str(codi.model.cfg.dtype).removeprefix("torch."),
            "device": codi.loop.device.type,
        },
        "pairs": {"digest": pairs_digest(pairs), "n": len(pairs)},
        "versions": {name: version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
    }


def make_manifest(
    sweep: Sweep, codi: HookedCodi, config: dict[str, Any], planned: int, complete: bool = True
) -> dict[str, Any]:
    """Everything needed to know what a record is a record of; `config` is what the user asked for.

    `planned` is the number of pairs that the run set out with; `complete` says whether all was done.
    """
    described = describe_run(sweep.experiment, codi, sweep.pairs, sweep.settings)
    numbers = {
        "n_planned": planned,
        "n_per_group": {name: int(chosen.sum()) for name, chosen in groups(sweep).items()},
    }
    return described | {
        "complete": complete and len(sweep.outcomes) == planned,
        "config": config,
        "foreign_hooks": list(sweep.foreign_hooks),
        "pairs": described["pairs"] | numbers,
        "peak_memory_bytes": peak_memory(codi.loop.device),
    }


def differences(
    there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """What differs between two descriptions, one text per field: "model.dtype (there …, here …)"."""
    for name in sorted({*there, *here}):
        found, wanted = there.get(name), here.get(name)
        if isinstance(found, Mapping) and isinstance(wanted, Mapping):
            yield from differences(found, wanted, f"{prefix}{name}.")
        elif found != wanted:
            yield f"{prefix}{name} (there {found}, here {wanted})"


def tensors_digest(tensors: Sequence[Tensor]) -> str:
    """SHA-256 over the bytes of tensors."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def peak_memory(device: torch.device) -> int:
    """Largest memory that this process has held: of the GPU where one is used, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
