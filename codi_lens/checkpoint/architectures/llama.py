"""The base model's `config.json`: read strictly, and held against the tensors before a model is made of it."""

import re
import reprlib
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from codi_lens.checkpoint.fields import (
    Kind,
    check_fields,
    flag,
    optional,
    positive,
    read_object,
    size,
    text,
)
from codi_lens.checkpoint.tensor_files import CheckpointError, TensorFile
from codi_lens.errors import UserError
from codi_lens.model.backend import attention_sizes, check_supported

REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
"""Fields without which transformers would fill in those of LLaMA-7B."""
ROPE: dict[str, Kind] = {
    "rope_type": text,
    "type": text,
    "rope_theta": positive,
    "factor": positive,
    "low_freq_factor": positive,
    "high_freq_factor": positive,
    "original_max_position_embeddings": size,
    "partial_rotary_factor": positive,
}


def _rope(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{what} is {type(value).__name__}; it must be an object")
    return check_fields(value, ROPE, what)


FIELDS: dict[str, Kind] = {
    **dict.fromkeys(REQUIRED, size),
    "rms_norm_eps": positive,
    "num_key_value_heads": optional(size),
    "head_dim": optional(size),
    "hidden_act": text,
    "tie_word_embeddings": flag,
    "attention_bias": flag,
    "mlp_bias": flag,
    "rope_theta": optional(positive),
    "rope_scaling": optional(_rope),
    "rope_parameters": optional(_rope),
    "partial_rotary_factor": optional(positive),
}
"""All on which a LLaMA's numbers depend; what else a file says (dtypes, token ids, versions) is not used."""


def read_llama_config(path: Path) -> LlamaConfig:
    """The config in `path`, refused where a default would have to stand in for a field.

    Raises:
        UserError: not the config of a LLaMA that this package computes exactly; names the field.
    """
    values = read_object(path)
    kind = values.get("model_type")
    if kind != "llama":
        raise UserError(f"{path}: field 'model_type' is {reprlib.repr(kind)}; it must be 'llama'")
    for field in REQUIRED:
        if field not in values:
            raise UserError(f"{path}: field {field!r} is missing; it must be given")
    checked = check_fields(values, FIELDS, str(path))
    checked = {field: value for field, value in checked.items() if value is not None}
    if not ("rope_theta" in checked or "rope_theta" in checked.get("rope_parameters", {})):
        raise UserError(
            f"{path}: field 'rope_theta' is missing, in 'rope_parameters' too; it must be a number"
        )
    width, heads = checked["hidden_size"], checked["num_attention_heads"]
    if width % heads:
        raise UserError(
            f"{path}: field 'hidden_size' is {width}; it must be a multiple of 'num_attention_heads' "
            f"({heads})"
        )
    try:
        config = LlamaConfig.from_dict(checked)
        check_supported(config)
    except Exception as error:
        # transformers validates with exceptions of many kinds.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not the config of a LLaMA to load ({reason})") from error
    return config


def check_sizes(config: LlamaConfig, path: Path, file: TensorFile) -> None:
    """Holds a config's sizes against the headers of the tensors, before anything is allocated.

    A size that any of the tensors has will do: which of them is out of line is told when they are read.

    Raises:
        CheckpointError: names field, file, found and expected.
    """
    indices = (re.search(r"\.layers\.(\d+)\.", key) for key in file.keys())  # noqa: SIM118
    layers = len({index[1] for index in indices if index})
    if config.num_hidden_layers > layers:
        raise CheckpointError(
            f"{path}: field 'num_hidden_layers' is {config.num_hidden_layers}; {file.path} has "
            f"tensors of {layers} layers; expected one number in both: is this the right base model?"
        )
    heads, kv_heads, d_head = attention_sizes(config)
    for field, expected, module, axis in (
        ("'hidden_size'", config.hidden_size, "mlp.gate_proj", 1),
        ("'intermediate_size'", config.intermediate_size, "mlp.gate_proj", 0),
        ("'num_attention_heads' × 'head_dim'", heads * d_head, "self_attn.q_proj", 0),
        ("'num_key_value_heads' × 'head_dim'", kv_heads * d_head, "self_attn.k_proj", 0),
    ):
        found = _sizes(file, module, axis)
        if expected not in found:
            raise CheckpointError(
                f"{path}: field {field} is {expected}; in {file.path} the {module} weights have "
                f"{' or '.join(map(str, sorted(found))) or 'none'}; expected one number in both: is "
                "this the right base model?"
            )


def _sizes(file: TensorFile, module: str, axis: int) -> set[int]:
    """Lengths of one axis of a module's weights, over all layers."""
    name = re.compile(rf"\.{re.escape(module)}\.(base_layer\.)?weight$")
    shapes = (file.shape(key) for key in file.keys() if name.search(key))  # noqa: SIM118
    return {shape[axis] for shape in shapes if len(shape) > axis}
