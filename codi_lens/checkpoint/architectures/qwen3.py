"""Qwen3: a LLaMA with norms of queries and keys, and heads of any width."""

from typing import Any

from transformers import PretrainedConfig, Qwen3Config, Qwen3ForCausalLM

from codi_lens.checkpoint.architectures.llama import FIELDS, REQUIRED
from codi_lens.checkpoint.architectures.qwen2 import QWEN2, Qwen2
from codi_lens.checkpoint.fields import flag


class Qwen3(Qwen2):
    """Qwen3: every head's queries and keys go through an RMS norm before they are rotated."""

    def hooked_settings(self, config: PretrainedConfig) -> dict[str, Any]:
        """As LLaMA's, with the norms of queries and keys."""
        return super().hooked_settings(config) | {"use_qk_norm": True}


QWEN3 = Qwen3(
    **vars(QWEN2)
    | {
        "model_type": "qwen3",
        "config_class": Qwen3Config,
        "model_class": Qwen3ForCausalLM,
        "fields": {name: kind for name, kind in FIELDS.items() if name != "mlp_bias"}
        | {"use_sliding_window": flag},
        "required": (*REQUIRED, "num_key_value_heads", "head_dim"),
    }
)
