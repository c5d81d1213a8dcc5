"""What a record is a record of: settings, digests, versions, memory."""

import platform
import resource
import sys
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from codi_lens.aggregates import groups
from codi_lens.codi import HookedCodi
from codi_lens.outcomes import Sweep
from codi_lens.pairs import pairs_digest

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
PACKAGES = ("codi-lens", "torch", "transformer-lens", "transformers", "peft")


def make_manifest(sweep: Sweep, codi: HookedCodi, config: dict[str, Any]) -> dict[str, Any]:
    """Everything needed to know what a record is a record of; `config` is what the user asked for."""
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": sweep.experiment,
        "config": config,
        "settings": asdict(sweep.settings),
        "model": {
            "name": codi.name,
            "digest": codi.digest,
            "num_layers": codi.model.cfg.n_layers,
            "d_model": codi.model.cfg.d_model,
            "trained_latents": codi.config.num_latents,
            "empty_stem": sweep.empty_stem,
            "dtype": str(codi.model.cfg.dtype).removeprefix("torch."),
            "device": str(codi.loop.device),
        },
        "pairs": {
            "digest": pairs_digest(sweep.pairs),
            "n": len(sweep.pairs),
            "n_per_group": {name: int(chosen.sum()) for name, chosen in groups(sweep).items()},
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
