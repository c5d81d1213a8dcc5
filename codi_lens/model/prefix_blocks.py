"""Transformer blocks that compute on a shared prefix (`codi_lens.model.prefix_cache`).

They are TransformerLens' own blocks, and take the path below only when the cache entry they are given is a
`SharedPrefixEntry`. Hook points keep their names and shapes, with two differences on that path: `hook_rot_k` sees the
new keys only, those before them having been rotated already, and the hook points of `ln1` are passed once,
not three times with the same input.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformer_lens import HookedTransformer
from transformer_lens.components.abstract_attention import AbstractAttention
from transformer_lens.components.attention import Attention
from transformer_lens.components.grouped_query_attention import GroupedQueryAttention
from transformer_lens.components.mlps.gated_mlp import GatedMLP
from transformer_lens.components.mlps.mlp import MLP
from transformer_lens.components.transformer_block import TransformerBlock

from codi_lens.model.prefix_cache import SharedPrefixEntry


class SharedPrefixBlock(TransformerBlock):
    """A block with a norm in front of its attention and in front of its MLP."""

    def forward(
        self,
        resid_pre: Float[Tensor, "batch pos d_model"],
        shortformer_pos_embed: Tensor | None = None,
        past_kv_cache_entry: Any = None,
        attention_mask: Tensor | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        entry = past_kv_cache_entry
        if not isinstance(entry, SharedPrefixEntry):
            return super().forward(resid_pre, shortformer_pos_embed, entry, attention_mask)
        resid_pre = self.hook_resid_pre(resid_pre)
        x = self.ln1(resid_pre)
        attn_out = self.hook_attn_out(self.attn(x, x, x, past_kv_cache_entry=entry))
        resid_mid = self.hook_resid_mid(resid_pre + attn_out)
        return self.hook_resid_post(resid_mid + self.apply_mlp(self.ln2(resid_mid)))  # type: ignore[no-any-return]


class InPlaceGatedMLP(GatedMLP):
    """LLaMA's MLP with half the memory traffic: the product of gate and input takes the gate's place.

    On every path; hook points and values are TransformerLens' own.
    """

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        gate = self.act_fn(self.hook_pre(F.linear(x, self.W_gate.T)))
        linear = self.hook_pre_linear(F.linear(x, self.W_in.T))
        post = self.hook_post(gate.mul_(linear).add_(self.b_in))
        return F.linear(post, self.W_out.T, self.b_out)


class FusedMLP(MLP):
    """GPT-2's MLP with less memory traffic: its activation function is torch's own, one pass over the tensor.

    On every path; hook points are TransformerLens' own, and so are the values up to rounding.
    """

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        pre = self.hook_pre(F.linear(x, self.W_in.T, self.b_in))
        return F.linear(self.hook_post(F.gelu(pre, approximate="tanh")), self.W_out.T, self.b_out)


class _SharedPrefixForward(AbstractAttention):
    """Attention of new positions to the prefix, to the row's own suffix, and to each other."""

    def forward(
        self,
        query_input: Tensor,
        key_input: Tensor,
        value_input: Tensor,
        past_kv_cache_entry: Any = None,
        additive_attention_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        entry = past_kv_cache_entry
        if not isinstance(entry, SharedPrefixEntry):
            inputs = (query_input, key_input, value_input, entry)
            return super().forward(*inputs, additive_attention_mask, attention_mask, position_bias)
        now = entry.now
        assert now is not None, "the pass was not begun"
        q, k, v = self.calculate_qkv_matrices(query_input, key_input, value_input)
        if now.cos is not None:
            q, k = self.hook_rot_q(now.rotate(q)), self.hook_rot_k(now.rotate(k))
        entry.append(k, v)
        scores = self.hook_attn_scores(now.hide(entry.scores(q / self.attn_scale)))
        z = self.hook_z(entry.mix(self.hook_pattern(F.softmax(scores, dim=-1))))
        return F.linear(z.flatten(2), self.W_O.flatten(0, 1).T, self.b_O)


class SharedPrefixAttention(_SharedPrefixForward, Attention):
    """Attention with a key/value head per head."""


class SharedPrefixGroupedQueryAttention(_SharedPrefixForward, GroupedQueryAttention):
    """Attention whose heads share key/value heads in groups."""


def install(model: HookedTransformer) -> None:
    """Puts blocks in place that understand a `SharedPrefixEntry`; weights come after."""
    grouped = model.cfg.n_key_value_heads is not None
    kind = SharedPrefixGroupedQueryAttention if grouped else SharedPrefixAttention
    for layer in range(model.cfg.n_layers):
        block = SharedPrefixBlock(model.cfg, layer)
        block.attn = kind(model.cfg, "global", layer)
        if model.cfg.gated_mlp:
            block.mlp = InPlaceGatedMLP(model.cfg)
        elif model.cfg.act_fn == "gelu_new":
            block.mlp = FusedMLP(model.cfg)
        model.blocks[layer] = block
    model.setup()
