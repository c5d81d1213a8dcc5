"""A small model of every kind of attention, to compare techniques on."""

import torch

from codi_lens import HookedCodi
from tests.families.twins import twin
from tests.models.tiny import write_tiny

MODELS = {
    "llama, heads of their own": {"kv_heads": 4},
    "llama, grouped": {"kv_heads": 2},
    "llama, one for all": {"kv_heads": 1},
    "gpt2": "gpt2-codi_bin",
    "qwen3": "qwen3-codi_bin",
}


def load(options, folder, layers=2):
    if isinstance(options, str):
        made = twin(options, folder)
        return HookedCodi.from_pretrained(made.source, dtype="float64", **made.options)
    return HookedCodi.from_pretrained(
        write_tiny(folder, layers=layers, seed=5, **options), dtype=torch.float64
    )
