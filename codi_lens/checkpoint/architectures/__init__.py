"""Families of base models, one file each; `ARCHITECTURES` is the registry, by `model_type` of `config.json`.

base.py says what an architecture is. A new one is a file like llama.py and an entry below."""

import reprlib
from pathlib import Path

from transformers import PretrainedConfig

from codi_lens.checkpoint.architectures.base import Architecture
from codi_lens.checkpoint.architectures.gpt2 import GPT2
from codi_lens.checkpoint.architectures.llama import LLAMA
from codi_lens.checkpoint.architectures.qwen2 import QWEN2
from codi_lens.checkpoint.architectures.qwen3 import QWEN3
from codi_lens.checkpoint.fields import read_object
from codi_lens.errors import UserError

__all__ = ["ARCHITECTURES", "GPT2", "LLAMA", "Architecture", "architecture_of", "read_base_config"]

ARCHITECTURES: dict[str, Architecture] = {
    known.model_type: known for known in (LLAMA, GPT2, QWEN2, QWEN3)
}


def architecture_of(model_type: object, where: str = "the config") -> Architecture:
    """The architecture of a `model_type`; `where` is the place that an error names.

    Raises:
        UserError: none that is known.
    """
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        known = " or ".join(map(repr, ARCHITECTURES))
        raise UserError(
            f"{where}: field 'model_type' is {reprlib.repr(model_type)}; it must be {known}"
        )
    return ARCHITECTURES[model_type]


def read_base_config(path: Path) -> PretrainedConfig:
    """The base model's `config.json`, read as its architecture wants it.

    Raises:
        UserError: an architecture that is not known, or a config that it refuses; names the field.
    """
    values = read_object(path)
    return architecture_of(values.get("model_type"), str(path)).read_config(values, path)
