"""Attention over prompts that many rows share, kept once, and each row's own suffix.

A sweep runs hundreds of rows on a handful of prompts. The keys and values of a prompt are computed once,
rotated once and stay as they are; a row keeps only what comes behind its prompt. Scores are computed in two
parts, against the prompt and against the suffix, and meet in one softmax: softmax([q·K_promptᵀ, q·K_ownᵀ]).
For the prompt's part all rows of a prompt are the rows of one matrix product, so that nothing is copied
per row.

`codi_lens.model.prefix_blocks` has the modules that compute on these entries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from codi_lens.errors import UserError

Index = slice | Tensor
Hidden = Mapping[int, Bool[Tensor, "rows new keys"]]
"""Layer -> keys that the new positions of a pass cannot see, beside those after them."""


@dataclass(frozen=True)
class Group:
    """Prompts with equally many rows each, all side by side: one batched matrix product."""

    prompts: Index
    rows: slice
    size: int
    """Number of prompts."""

    def stacked(
        self, x: Float[Tensor, "rows kv_heads queries width"]
    ) -> Float[Tensor, "prompts kv_heads stacked width"]:
        """All queries of a prompt below each other."""
        return self.unstacked(x).flatten(2, 3)

    def unstacked(
        self, x: Float[Tensor, "rows kv_heads queries width"]
    ) -> Float[Tensor, "prompts kv_heads rows_each queries width"]:
        """A view of the group's rows, laid out as `stacked` has them."""
        by_prompt: Tensor = x[self.rows].unflatten(0, (self.size, -1))
        return by_prompt.transpose(1, 2)


def group_rows(prompts: Sequence[int], device: torch.device) -> tuple[Group, ...]:
    """Groups rows by their prompt, given in `prompts`; works best if the rows of a prompt are side by side."""
    runs = [(prompt, len(list(rows))) for prompt, rows in groupby(prompts)]
    groups, start = [], 0
    for each, alike in groupby(runs, key=lambda run: run[1]):
        members = [prompt for prompt, _ in alike]
        stop = start + each * len(members)
        groups.append(Group(_index(members, device), slice(start, stop), len(members)))
        start = stop
    return tuple(groups)


def _index(numbers: list[int], device: torch.device) -> Index:
    """A slice where the numbers are evenly spaced, which makes a view instead of a copy."""
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    if step > 0 and numbers == list(range(numbers[0], numbers[-1] + 1, step)):
        return slice(numbers[0], numbers[-1] + 1, step)
    return torch.tensor(numbers, device=device)


@dataclass(frozen=True)
class NewPositions:
    """What every layer needs to know about the positions that a pass adds, computed once for all layers."""

    cos: Float[Tensor, "rows pos 1 d_head"] | None
    sin: Float[Tensor, "rows pos 1 d_head"] | None
    """Negative in the first half of a head, so that rotating is x · cos + roll(x) · sin. None: no rotary embedding."""
    unseen: Bool[Tensor, "rows_or_1 1 pos last_keys"]
    """Keys that the new positions may not attend to, of the last so many."""

    @classmethod
    def of(cls, model: HookedTransformer, mask: Int[Tensor, "rows pos"], new: int) -> Self:
        """The last `new` positions of a batch with this mask."""
        length = mask.shape[1]
        cos, sin = _rotation(model, mask, new)
        later = torch.ones((new, new), dtype=torch.bool, device=mask.device).triu(1)
        unseen = later[None, None]
        if not mask.all():
            unseen = (mask == 0)[:, None, None].repeat(1, 1, new, 1)
            own = unseen[..., length - new :]
            own |= later
            # Padding sees itself, so that no row of the pattern is empty; nothing else sees it.
            own.diagonal(dim1=-2, dim2=-1).fill_(False)
        return cls(cos, sin, unseen)

    def rotate(
        self, x: Float[Tensor, "rows pos heads d_head"]
    ) -> Float[Tensor, "rows pos heads d_head"]:
        """The rotary embedding (Su et al., arXiv 2104.09864) of the new positions' queries or keys."""
        assert self.cos is not None, "positions are learned, not rotated"
        assert self.sin is not None
        return torch.addcmul(x * self.cos, x.roll(x.shape[-1] // 2, dims=-1), self.sin)

    def without(self, hidden: Bool[Tensor, "rows new keys"]) -> Self:
        """The same positions, which cannot attend to some more keys."""
        unseen = hidden[:, None].clone()
        unseen[..., -self.unseen.shape[-1] :] |= self.unseen
        return replace(self, unseen=unseen)

    def hide(
        self, scores: Float[Tensor, "rows heads pos key_pos"]
    ) -> Float[Tensor, "rows heads pos key_pos"]:
        """Sets the scores of keys that are not to be seen to -inf, in place."""
        if self.unseen.shape[-1] > 1:
            scores[..., -self.unseen.shape[-1] :].masked_fill_(self.unseen, -torch.inf)
        return scores


def _rotation(
    model: HookedTransformer, mask: Int[Tensor, "rows pos"], new: int
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Cosines and signed sines of the last `new` positions, as `NewPositions` has them."""
    if model.cfg.positional_embedding_type != "rotary":
        return None, None
    attention, (rows, length) = model.blocks[0].attn, mask.shape
    half = model.cfg.d_head // 2
    probe = model.W_E.new_zeros((rows, new, 1, 2 * half))
    probe[..., :half] = 1  # turned by an angle, (1, 0) is (cos, sin)
    cos, sin = attention.apply_rotary(probe, length - new, mask).split(half, dim=-1)
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


@dataclass
class SharedPrefixEntry:
    """One layer's keys (rotated) and values."""

    prefix_keys: Float[Tensor, "prompts kv_heads d_head prefix_pos"]
    prefix_values: Float[Tensor, "prompts kv_heads prefix_pos d_head"]
    keys: Float[Tensor, "rows kv_heads pos d_head"]
    values: Float[Tensor, "rows kv_heads pos d_head"]
    groups: tuple[Group, ...]
    """Which rows share which prompt's prefix; none while there is no prefix."""
    now: NewPositions | None = None
    """Of the pass that is under way."""

    @property
    def length(self) -> int:
        """Positions so far, prefix and suffix."""
        return self.prefix_keys.shape[-1] + self.keys.shape[2]

    def append(
        self,
        keys: Float[Tensor, "rows pos kv_heads d_head"],
        values: Float[Tensor, "rows pos kv_heads d_head"],
    ) -> None:
        """Adds new positions to every row's suffix."""
        self.keys = torch.cat([self.keys, keys.transpose(1, 2)], dim=2)
        self.values = torch.cat([self.values, values.transpose(1, 2)], dim=2)

    def scores(
        self, q: Float[Tensor, "rows pos heads d_head"]
    ) -> Float[Tensor, "rows heads pos key_pos"]:
        """Products of all queries with all keys, the prefix's first."""
        rows, pos, heads, d_head = q.shape
        prefix = self.prefix_keys.shape[-1]
        # The heads of one key/value head lie side by side: together with the positions they are the
        # rows of its matrix product.
        q = q.transpose(1, 2).reshape(rows, self.keys.shape[1], -1, d_head)
        scores = q.new_empty((*q.shape[:-1], self.length))
        for group in self.groups:
            part = group.stacked(q) @ self.prefix_keys[group.prompts]
            to = group.unstacked(scores[..., :prefix])
            to.copy_(part.view(to.shape))
        scores[..., prefix:] = q @ self.keys.mT
        return scores.view(rows, heads, pos, -1)

    def mix(
        self, pattern: Float[Tensor, "rows heads pos key_pos"]
    ) -> Float[Tensor, "rows pos heads d_head"]:
        """The values of all positions, weighted by the pattern."""
        rows, heads, pos, _ = pattern.shape
        prefix = self.prefix_keys.shape[-1]
        pattern = pattern.reshape(rows, self.values.shape[1], -1, self.length)
        z = pattern[..., prefix:] @ self.values
        for group in self.groups:
            part = group.stacked(pattern[..., :prefix]) @ self.prefix_values[group.prompts]
            to = group.unstacked(z)
            to += part.view(to.shape)
        return z.view(rows, heads, pos, -1).transpose(1, 2)


@dataclass
class SharedPrefixCache:
    """The entries of all layers; stands where TransformerLens' own cache would."""

    entries: list[SharedPrefixEntry]
    prompts: tuple[int, ...]
    """Of each row."""

    def __getitem__(self, layer: int) -> SharedPrefixEntry:
        return self.entries[layer]

    @classmethod
    def empty(cls, model: HookedTransformer, batch: int) -> Self:
        """No position yet: `batch` prompts can be read on it.

        Raises:
            UserError: attention of a kind that is not implemented here.
        """
        cfg = model.cfg
        check_config(cfg)
        none = model.W_E.new_empty((batch, cfg.n_key_value_heads or cfg.n_heads, 0, cfg.d_head))
        entries = [SharedPrefixEntry(none.mT, none, none, none, ()) for _ in model.blocks]
        return cls(entries, tuple(range(batch)))

    def as_prefix(self) -> Self:
        """What the rows hold, made the prefix that rows to come can share."""
        groups = group_rows(self.prompts, self.entries[0].keys.device)
        entries = [
            replace(
                entry,
                prefix_keys=entry.keys.mT.contiguous(),
                prefix_values=entry.values,
                keys=entry.keys[:, :, :0],
                values=entry.values[:, :, :0],
                groups=groups,
            )
            for entry in self.entries
        ]
        return replace(self, entries=entries)

    def begin_pass(
        self, model: HookedTransformer, mask: Int[Tensor, "rows pos"], new: int, hidden: Hidden
    ) -> None:
        """Tells every layer of the positions that the next forward pass adds, and what they cannot see there."""
        now = NewPositions.of(model, mask, new)
        for layer, entry in enumerate(self.entries):
            entry.now = now.without(hidden[layer]) if layer in hidden else now

    def select(self, rows: Sequence[int], index: Int[Tensor, " rows"]) -> Self:
        """The given rows, in that order, on the same prompts; `index` is `rows` on the device."""
        prompts = tuple(self.prompts[row] for row in rows)
        groups = group_rows(prompts, index.device)
        entries = [
            replace(entry, keys=entry.keys[index], values=entry.values[index], groups=groups)
            for entry in self.entries
        ]
        return replace(self, entries=entries, prompts=prompts)

    def crop(self, length: int) -> Self:
        """The first `length` positions, prefix included."""
        entries = [
            replace(entry, keys=entry.keys[:, :, :own], values=entry.values[:, :, :own])
            for entry in self.entries
            if (own := length - entry.prefix_keys.shape[-1]) >= 0
        ]
        return replace(self, entries=entries)


def check_config(cfg: HookedTransformerConfig) -> None:
    """Refuses attention that this file does not compute.

    Raises:
        UserError: naming the first setting that is not implemented.
    """
    implemented: dict[str, tuple[Any, ...]] = {
        "positional_embedding_type": ("rotary", "standard"),
        "rotary_dim": (cfg.d_head, None),
        "normalization_type": ("RMS", "LN"),
        "attention_dir": ("causal",),
        "attn_scores_soft_cap": (-1.0,),
        "clip_qkv": (None,),
    }
    implemented |= dict.fromkeys(
        (
            "use_local_attn",
            "use_logn_attn",
            "use_dynamic_ntk_rope",
            "use_attention_sinks",
            "scale_attn_by_inverse_layer_idx",
            "load_in_4bit",
            "rotary_adjacent_pairs",
            "attn_only",
            "parallel_attn_mlp",
            "use_normalization_before_and_after",
            "use_hook_mlp_in",
            "use_attn_result",
            "use_attn_in",
            "use_split_qkv_input",
            "ungroup_grouped_query_attention",
        ),
        (False,),
    )
    for name, values in implemented.items():
        if getattr(cfg, name) not in values:
            raise UserError(
                f"model.cfg.{name} is {getattr(cfg, name)!r}; rows on a shared prompt need "
                f"{' or '.join(map(repr, values))}"
            )
