"""Activation patching inside the latent-thought loop of CODI language models.

The names below are imported when they are first used, so that programs which only parse their arguments
or read a file of pairs need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codi_lens import plots
    from codi_lens.data.pairs import Pair, Variant, load_pairs
    from codi_lens.errors import UserError
    from codi_lens.model.cache import CodiCache
    from codi_lens.model.hooked_codi import CodiRun, HookedCodi
    from codi_lens.model.hooks import Site
    from codi_lens.patching.result import Sweep
    from codi_lens.patching.sweep import patch_iteratively, patch_layers, patch_positions

_HOMES = {
    "CodiCache": "model.cache",
    "CodiRun": "model.hooked_codi",
    "HookedCodi": "model.hooked_codi",
    "UserError": "errors",
    "Site": "model.hooks",
    "Pair": "data.pairs",
    "Variant": "data.pairs",
    "load_pairs": "data.pairs",
    "Sweep": "patching.result",
    "patch_iteratively": "patching.sweep",
    "patch_layers": "patching.sweep",
    "patch_positions": "patching.sweep",
}

__all__ = [
    "CodiCache",
    "CodiRun",
    "HookedCodi",
    "Pair",
    "Site",
    "Sweep",
    "UserError",
    "Variant",
    "load_pairs",
    "patch_iteratively",
    "patch_layers",
    "patch_positions",
    "plots",
]


def __getattr__(name: str) -> Any:
    if name == "plots":
        return import_module("codi_lens.plots")
    if name not in _HOMES:
        raise AttributeError(f"module 'codi_lens' has no attribute {name!r}")
    return getattr(import_module(f"codi_lens.{_HOMES[name]}"), name)
