"""The activations of a finished run, to be patched in again by another."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError
from codi_lens.files import expand
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.settings import Settings
from codi_lens.records.manifest import describe_run, differences
from codi_lens.records.read import load, read_manifest, readable


def reusable_activations(
    folder: Path, codi: HookedCodi, pairs: Sequence[Pair], settings: Settings
) -> list[Tensor]:
    """Source activations [layer, position, d_model] per pair, from an earlier run.

    Raises:
        RecordError: no finished record there, or a damaged one.
        UserError: the run was of another model, dtype, pairs, latents, site, direction or cells; the
            message says what differs.
    """
    folder = expand(folder)
    there, sweep = read_manifest(folder), load(folder)
    here = json.loads(json.dumps(describe_run(there["experiment"], codi, pairs, settings)))
    # Of the settings, what the earlier run told: older records say less of the model.
    here["model"] = {name: here["model"].get(name) for name in there["model"]}
    with readable(folder):
        differing = list(differences(_decisive(there), _decisive(here)))
        if there["pairs"]["digest"] != here["pairs"]["digest"]:
            differing.append(_apart(sweep.pairs, pairs))
    if differing:
        raise UserError(f"the activations of {folder} cannot be used: " + "; ".join(differing))
    return [outcome.activations for outcome in sweep.outcomes]


def _apart(there: Sequence[Pair], here: Sequence[Pair]) -> str:
    """How pairs differ from those of a record, in words."""
    if len(there) != len(here):
        return f"{len(there)} pairs there, {len(here)} here"
    apart = [pair.pair_id for pair, found in zip(here, there, strict=True) if pair != found]
    shown = ", ".join(map(str, apart[:5])) + (", …" if len(apart) > 5 else "")
    return f"{len(apart)} of {len(here)} pairs are others there (here: pairs {shown})"


def _decisive(described: dict[str, Any]) -> dict[str, Any]:
    """What source activations depend on."""
    names = ("num_latents", "site", "direction", "layers", "positions")
    settings = ("lora_alpha", "remove_eos", "sequence")
    return {
        "model digest": described["model"]["digest"],
        "dtype": described["model"]["dtype"],
        **{name: described["model"].get(name) for name in settings},
    } | {name: described["settings"][name] for name in names}
