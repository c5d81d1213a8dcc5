"""LLaMA -> TransformerLens: any `LlamaForCausalLM` as a `HookedTransformer` that shares its weights.

TransformerLens' own loader knows models by name, fixes LLaMA-3's vocabulary and may process weights.
Here the config is derived from the model's own `LlamaConfig`, the tensors are converted by
TransformerLens' LLaMA converter (views, no copies) and nothing is folded or centred: the projection of a
CODI model reads the state *after* the final norm's gain, which folding would move elsewhere.
"""

import warnings
from typing import Any

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights
from transformers import LlamaConfig, LlamaForCausalLM

from codi_lens.errors import UserError
from codi_lens.memory import enough_memory
from codi_lens.model.prefix_blocks import install


@enough_memory("the hooked model")
def to_hooked(llama: LlamaForCausalLM) -> HookedTransformer:
    """Wraps `llama` as a `HookedTransformer`; both use the same storage afterwards.

    Hook points are TransformerLens' own, at `blocks.{layer}.…` with shapes [batch, pos, d_model] and so
    on. Weights stay in their dtype, on their device, and do not require gradients.

    Raises:
        UserError: for a config that TransformerLens' LLaMA does not compute exactly.
    """
    cfg = _hooked_config(llama.config, llama.dtype, llama.device)
    with warnings.catch_warnings():
        # TransformerLens announces the end of HookedTransformer in its version 4; this package pins <4.
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        # On the CPU untouched allocations cost no memory; assign=True below then replaces them all.
        model = HookedTransformer(cfg, move_to_device=False)
    install(model)
    state = convert_llama_weights(llama, cfg) | _attention_biases(llama, cfg)
    buffers = {name: tensor for name, tensor in model.state_dict().items() if name not in state}
    model.load_state_dict(state | buffers, strict=True, assign=True)
    model.cfg.device = str(llama.device)
    model.to(llama.device, print_details=False)
    model.eval().requires_grad_(False)
    return model


def move(model: HookedTransformer, where: torch.device | torch.dtype) -> None:
    """Moves a hooked model to a device, or changes its dtype.

    Rotary tables are made anew in another dtype, as they are on loading: rounded ones would stay rounded.
    """
    model.to(where, print_details=False)
    if isinstance(where, torch.dtype):
        for block in model.blocks:
            attention: Any = block.attn
            attention._extend_rotary_embeddings(len(attention.rotary_sin))


def attention_sizes(config: LlamaConfig) -> tuple[int, int, int]:
    """Number of heads, number of key/value heads, width of a head; a config may leave out the last two."""
    heads = config.num_attention_heads
    return (
        heads,
        config.num_key_value_heads or heads,
        config.head_dim or config.hidden_size // heads,
    )


def check_supported(config: LlamaConfig) -> None:
    """Refuses a config that TransformerLens' LLaMA does not compute exactly.

    Raises:
        UserError: names the field, what it is and what it must be.
    """
    if config.mlp_bias:
        raise UserError("LlamaConfig.mlp_bias is true; TransformerLens' gated MLP has no such bias")
    if config.hidden_act != "silu":
        raise UserError(f"LlamaConfig.hidden_act is {config.hidden_act!r}; LLaMA models use 'silu'")
    heads, kv_heads, d_head = attention_sizes(config)
    if heads % kv_heads:
        raise UserError(
            f"num_key_value_heads is {kv_heads}; it must divide num_attention_heads ({heads})"
        )
    if d_head < 2 or d_head % 2:
        raise UserError(
            f"head_dim is {d_head}; it must be even, as the rotary embedding turns pairs"
        )
    _rotary_settings(config)


def _hooked_config(
    config: LlamaConfig, dtype: torch.dtype, device: torch.device
) -> HookedTransformerConfig:
    check_supported(config)
    heads, kv_heads, d_head = attention_sizes(config)
    return HookedTransformerConfig(
        d_model=config.hidden_size,
        d_head=d_head,
        n_heads=heads,
        n_key_value_heads=None if kv_heads == heads else kv_heads,
        d_mlp=config.intermediate_size,
        n_layers=config.num_hidden_layers,
        n_ctx=config.max_position_embeddings,
        d_vocab=config.vocab_size,
        eps=config.rms_norm_eps,
        act_fn=config.hidden_act,
        normalization_type="RMS",
        final_rms=True,
        gated_mlp=True,
        positional_embedding_type="rotary",
        rotary_adjacent_pairs=False,
        rotary_dim=d_head,
        original_architecture="LlamaForCausalLM",
        tie_word_embeddings=config.tie_word_embeddings,
        init_weights=False,
        dtype=dtype,
        device="cpu",
        **_rotary_settings(config),
    )


def _rotary_settings(config: LlamaConfig) -> dict[str, Any]:
    """TransformerLens' names for the rotary embedding of `config`: plain, linear or llama3 scaling."""
    rope: dict[str, Any] = dict(config.rope_parameters or {})
    kind = rope.get("rope_type", "default")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(
            f"partial_rotary_factor is {rope['partial_rotary_factor']}; LLaMA rotates all of a head"
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


def _attention_biases(
    llama: LlamaForCausalLM, cfg: HookedTransformerConfig
) -> dict[str, torch.Tensor]:
    """The biases of q, k, v, o where the config has them; the converter writes zeros in their place."""
    biases: dict[str, torch.Tensor] = {}
    if not llama.config.attention_bias:
        return biases
    mark = "" if cfg.n_key_value_heads is None else "_"
    for layer, block in enumerate(llama.model.layers):
        attention, stem = block.self_attn, f"blocks.{layer}.attn."
        biases[f"{stem}b_Q"] = attention.q_proj.bias.view(-1, cfg.d_head)
        biases[f"{stem}{mark}b_K"] = attention.k_proj.bias.view(-1, cfg.d_head)
        biases[f"{stem}{mark}b_V"] = attention.v_proj.bias.view(-1, cfg.d_head)
        biases[f"{stem}b_O"] = attention.o_proj.bias
    return biases
