"""LLaMA, on which the Qwen models build: its config, read strictly, and its weights under TransformerLens' names.

TransformerLens' own loader knows models by name, fixes LLaMA-3's vocabulary and may process weights. Here the
config is derived from the model's own `LlamaConfig`, and the tensors are converted by TransformerLens' LLaMA
converter (views, no copies). Nothing is folded or centred: the projection of a CODI model reads the state
*after* the final norm's gain, which folding would move elsewhere.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel

from codi_lens.checkpoint.architectures.base import Architecture
from codi_lens.checkpoint.fields import Kind, check_fields, flag, optional, positive, size, text
from codi_lens.errors import UserError

REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LEFTOVERS = ("rotary_emb.inv_freq",)
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


class Llama(Architecture):
    """LLaMA 1 to 3: RMS norms, rotary embeddings, a gated MLP, key/value heads shared or not."""

    def read_fields(self, values: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """As in the base class; and the base of the rotary embedding has to be in one of two places."""
        fields = super().read_fields(values, path)
        if not ("rope_theta" in fields or "rope_theta" in fields.get("rope_parameters", {})):
            raise UserError(
                f"{path}: field 'rope_theta' is missing, in 'rope_parameters' too; it must be a number"
            )
        width, heads = fields["hidden_size"], fields["num_attention_heads"]
        if width % heads:
            raise UserError(
                f"{path}: field 'hidden_size' is {width}; it must be a multiple of "
                f"'num_attention_heads' ({heads})"
            )
        return fields

    def check(self, config: PretrainedConfig) -> None:
        """Refuses biases in the MLP, other activations, and rotary embeddings of other kinds."""
        if getattr(config, "mlp_bias", False):
            raise UserError("mlp_bias is true; TransformerLens' gated MLP has no such bias")
        if config.hidden_act != "silu":
            raise UserError(f"hidden_act is {config.hidden_act!r}; it must be 'silu'")
        heads, kv_heads, d_head = attention_sizes(config)
        if heads % kv_heads:
            raise UserError(
                f"num_key_value_heads is {kv_heads}; it must divide num_attention_heads ({heads})"
            )
        if d_head < 2 or d_head % 2:
            raise UserError(
                f"head_dim is {d_head}; it must be even, as the rotary embedding turns pairs"
            )
        rotary_settings(config)

    def sizes(self, config: PretrainedConfig) -> tuple[tuple[str, int, str, int], ...]:
        """The widths of the residual stream, the MLP, and the heads together."""
        heads, kv_heads, d_head = attention_sizes(config)
        return (
            ("'hidden_size'", config.hidden_size, "mlp.gate_proj", 1),
            ("'intermediate_size'", config.intermediate_size, "mlp.gate_proj", 0),
            ("'num_attention_heads' × 'head_dim'", heads * d_head, "self_attn.q_proj", 0),
            ("'num_key_value_heads' × 'head_dim'", kv_heads * d_head, "self_attn.k_proj", 0),
        )

    def hooked_settings(self, config: PretrainedConfig) -> dict[str, Any]:
        """Derived from `config` alone, for any size and vocabulary."""
        heads, kv_heads, d_head = attention_sizes(config)
        return {
            "d_model": config.hidden_size,
            "d_head": d_head,
            "n_heads": heads,
            "n_key_value_heads": None if kv_heads == heads else kv_heads,
            "d_mlp": config.intermediate_size,
            "n_layers": config.num_hidden_layers,
            "n_ctx": config.max_position_embeddings,
            "eps": config.rms_norm_eps,
            "act_fn": config.hidden_act,
            "normalization_type": "RMS",
            "final_rms": True,
            "gated_mlp": True,
            "positional_embedding_type": "rotary",
            "rotary_adjacent_pairs": False,
            "rotary_dim": d_head,
            **rotary_settings(config),
        }

    def hooked_weights(
        self, model: PreTrainedModel, cfg: HookedTransformerConfig
    ) -> dict[str, Tensor]:
        """TransformerLens' conversion, and the attention's biases and norms, which it leaves out."""
        weights: dict[str, Tensor] = convert_llama_weights(model, cfg)
        return weights | _attention_extras(model, cfg)


def attention_sizes(config: PretrainedConfig) -> tuple[int, int, int]:
    """Number of heads, number of key/value heads, width of a head; a config may leave out the last two."""
    heads = config.num_attention_heads
    return (
        heads,
        config.num_key_value_heads or heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads,
    )


def rotary_settings(config: PretrainedConfig) -> dict[str, Any]:
    """TransformerLens' names for the rotary embedding of `config`: plain, linear or llama3 scaling."""
    rope: dict[str, Any] = dict(config.rope_parameters or {})
    kind = rope.get("rope_type", "default")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(
            f"partial_rotary_factor is {rope['partial_rotary_factor']}; it must be 1, all of a head is rotated"
        )
    settings: dict[str, Any] = {"rotary_base": rope["rope_theta"]}
    if kind == "linear":
        settings["rotary_scaling_factor"] = rope["factor"]
    elif kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        if not low < high:
            raise UserError(f"high_freq_factor is {high}; it must exceed low_freq_factor ({low})")
        settings |= {
            "use_NTK_by_parts_rope": True,
            "NTK_by_parts_factor": rope["factor"],
            "NTK_by_parts_low_freq_factor": low,
            "NTK_by_parts_high_freq_factor": high,
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
        }
    elif kind != "default":
        raise UserError(f"rope_type is {kind!r}; supported are 'default', 'linear' and 'llama3'")
    return settings


def _attention_extras(model: PreTrainedModel, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    """Biases of q, k, v, o and norms of queries and keys, where a model has them."""
    extras: dict[str, Tensor] = {}
    mark = "" if cfg.n_key_value_heads is None else "_"
    for layer, block in enumerate(model.model.layers):
        attention, stem = block.self_attn, f"blocks.{layer}.attn."
        for module, name in (("q_proj", "b_Q"), ("k_proj", f"{mark}b_K"), ("v_proj", f"{mark}b_V")):
            if (bias := getattr(attention, module).bias) is not None:
                extras[stem + name] = bias.view(-1, cfg.d_head)
        if attention.o_proj.bias is not None:
            extras[f"{stem}b_O"] = attention.o_proj.bias
        if cfg.use_qk_norm:
            extras[f"{stem}q_norm.w"] = attention.q_norm.weight
            extras[f"{stem}k_norm.w"] = attention.k_norm.weight
    return extras


LLAMA = Llama(
    model_type="llama",
    config_class=LlamaConfig,
    model_class=LlamaForCausalLM,
    fields=FIELDS,
    required=REQUIRED,
    embedding="model.embed_tokens.weight",
    head="lm_head.weight",
    layers="model.layers.",
    lora_targets=TARGETS,
    leftovers=LEFTOVERS,
)
