"""The key/value cache of plain transformers models, whose argument has changed its name."""

import inspect
from functools import cache
from typing import Any

from transformers import Cache, LlamaModel


def cached(past: Cache) -> dict[str, Any]:
    """Arguments that make a transformers model continue from `past` and extend it in place."""
    return {_argument(): past, "use_cache": True}


@cache
def _argument() -> str:
    """`cache` since transformers 5.24; the older `past_key_values` goes in 5.40."""
    return (
        "cache"
        if "cache" in inspect.signature(LlamaModel.forward).parameters
        else "past_key_values"
    )
