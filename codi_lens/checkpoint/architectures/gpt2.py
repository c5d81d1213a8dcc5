"""GPT-2: learned positions, layer norms with biases, `Conv1D` weights [in, out], and one tied embedding.

As for LLaMA, nothing is folded or centred, and the tensors are converted by TransformerLens' own converter.
"""

from typing import Any

from torch import Tensor
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights
from transformers import GPT2Config, GPT2LMHeadModel, PretrainedConfig, PreTrainedModel

from codi_lens.checkpoint.architectures.base import Architecture
from codi_lens.checkpoint.fields import Kind, flag, optional, positive, size, text
from codi_lens.errors import UserError

REQUIRED = ("vocab_size", "n_embd", "n_layer", "n_head", "n_positions", "layer_norm_epsilon")
FIELDS: dict[str, Kind] = {
    **dict.fromkeys(REQUIRED, size),
    "layer_norm_epsilon": positive,
    "n_inner": optional(size),
    "activation_function": text,
    "tie_word_embeddings": flag,
    "scale_attn_weights": flag,
    "scale_attn_by_inverse_layer_idx": flag,
    "reorder_and_upcast_attn": flag,
    "add_cross_attention": flag,
}
FIXED = {
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}
"""Fields that have one value in GPT-2, and switches of its code that other models use."""


class Gpt2(Architecture):
    """GPT-2, from small to XL."""

    def check(self, config: PretrainedConfig) -> None:
        """Refuses other activations, and attention of other models."""
        for field, value in FIXED.items():
            if getattr(config, field) != value:
                raise UserError(f"{field} is {getattr(config, field)!r}; it must be {value!r}")
        if config.n_embd % config.n_head:
            raise UserError(
                f"n_embd is {config.n_embd}; it must be a multiple of n_head ({config.n_head})"
            )

    def sizes(self, config: PretrainedConfig) -> tuple[tuple[str, int, str, int], ...]:
        """The widths of the residual stream and the MLP."""
        return (
            ("'n_embd'", config.n_embd, "attn.c_attn", 0),
            ("'n_inner'", _d_mlp(config), "mlp.c_fc", 1),
        )

    def hooked_settings(self, config: PretrainedConfig) -> dict[str, Any]:
        """Derived from `config` alone, for any size and vocabulary."""
        return {
            "d_model": config.n_embd,
            "d_head": config.n_embd // config.n_head,
            "n_heads": config.n_head,
            "d_mlp": _d_mlp(config),
            "n_layers": config.n_layer,
            "n_ctx": config.n_positions,
            "eps": config.layer_norm_epsilon,
            "act_fn": config.activation_function,
            "normalization_type": "LN",
            "positional_embedding_type": "standard",
        }

    def hooked_weights(
        self, model: PreTrainedModel, cfg: HookedTransformerConfig
    ) -> dict[str, Tensor]:
        """TransformerLens' conversion."""
        weights: dict[str, Tensor] = convert_gpt2_weights(model, cfg)
        return weights


def _d_mlp(config: PretrainedConfig) -> int:
    width: int = config.n_inner or 4 * config.n_embd
    return width


GPT2 = Gpt2(
    model_type="gpt2",
    config_class=GPT2Config,
    model_class=GPT2LMHeadModel,
    fields=FIELDS,
    required=REQUIRED,
    embedding="transformer.wte.weight",
    head="lm_head.weight",
    layers="transformer.h.",
    lora_targets=("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    leftovers=("attn.bias", "attn.masked_bias"),
    transposed=True,
    depth="n_layer",
)
