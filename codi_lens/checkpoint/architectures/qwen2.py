"""Qwen2: a LLaMA with biases of queries, keys and values."""

from transformers import PretrainedConfig, Qwen2Config, Qwen2ForCausalLM

from codi_lens.checkpoint.architectures.llama import (
    FIELDS,
    LEFTOVERS,
    REQUIRED,
    TARGETS,
    Llama,
)
from codi_lens.checkpoint.fields import flag
from codi_lens.errors import UserError


class Qwen2(Llama):
    """Qwen2 and what has its window: attention that reaches back to the beginning, in every layer."""

    def check(self, config: PretrainedConfig) -> None:
        """Refuses what `Llama` does, and attention within a window."""
        if config.use_sliding_window:
            raise UserError("use_sliding_window is true; it must be false")
        super().check(config)


QWEN2 = Qwen2(
    model_type="qwen2",
    config_class=Qwen2Config,
    model_class=Qwen2ForCausalLM,
    fields={
        name: kind
        for name, kind in FIELDS.items()
        if name not in ("head_dim", "attention_bias", "mlp_bias")
    }
    | {"use_sliding_window": flag},
    required=(*REQUIRED, "num_key_value_heads"),
    embedding="model.embed_tokens.weight",
    head="lm_head.weight",
    layers="model.layers.",
    lora_targets=TARGETS,
    leftovers=LEFTOVERS,
)
