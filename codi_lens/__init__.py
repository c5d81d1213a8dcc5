"""Activation patching inside the latent-thought loop of CODI language models."""

from codi_lens.codi import CodiCache, CodiRun, HookedCodi
from codi_lens.errors import UserError
from codi_lens.hooks import Site
from codi_lens.pairs import Pair, Variant, load_pairs
from codi_lens.sweeps import Sweep, patch_positions

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
    "patch_positions",
]
