"""What the latent loop asks of a transformer (`Backend`), and TransformerLens' answer to it (`HookedBackend`).

`to_hooked` makes a `HookedTransformer` of a transformers model. Both use the same weights in the same memory;
the architecture says how they are named (`codi_lens.checkpoint.architectures`).
"""

import re
import threading
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer, TransformerLensKeyValueCache
from transformers import PreTrainedModel

from codi_lens.checkpoint.architectures import architecture_of
from codi_lens.errors import UserError, set_once
from codi_lens.memory import enough_memory
from codi_lens.model.hooks import HookFn
from codi_lens.model.prefix_blocks import install
from codi_lens.model.prefix_cache import Hidden, SharedPrefixCache

Hooks = Sequence[tuple[str, HookFn]]
"""(hook point, hook function) of one pass."""
KeyValueCache = TransformerLensKeyValueCache | SharedPrefixCache
NOTHING: Hidden = MappingProxyType({})


class Backend(Protocol):
    """A transformer as the latent loop sees it."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def hook_names(self) -> Collection[str]:
        """Names of the hook points, in the order of the model."""

    def to(self, where: torch.device | torch.dtype) -> None:
        """Moves the model to a device, or changes its dtype."""

    def empty_cache(self, batch: int, *, shared: bool = False) -> KeyValueCache:
        """Keys and values of no position yet; `shared`: their rows can be selected and repeated later."""

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Input embeddings of tokens."""

    def forward(
        self,
        embeddings: Float[Tensor, "batch new d_model"],
        mask: Int[Tensor, "batch pos"],
        cache: KeyValueCache,
        hooks: Hooks = (),
        hidden: Hidden = NOTHING,
    ) -> Float[Tensor, "batch new d_model"]:
        """One pass over new positions, by which `cache` grows; returns the states after the final norm.

        Args:
            mask: of all positions, those in the cache included: 1 for a token, 0 for padding.
            hidden: layer -> keys that new positions cannot attend to, on a cache that rows share.
        """

    def unembed(
        self, final: Float[Tensor, "... d_model"], hooks: Hooks = ()
    ) -> Float[Tensor, "... d_vocab"]:
        """Logits of states that carry the final norm already; only hooks on the unembedding act."""


class HookedBackend:
    """A `HookedTransformer` as the loop's transformer."""

    def __init__(self, model: HookedTransformer) -> None:
        self.model = model

    def __setattr__(self, name: str, value: object) -> None:
        set_once(self, name, value)

    @property
    def device(self) -> torch.device:
        return self.model.W_E.device

    @property
    def hook_names(self) -> Collection[str]:
        return self.model.hook_dict

    def to(self, where: torch.device | torch.dtype) -> None:
        self.model.to(where, print_details=False)
        if isinstance(where, torch.dtype):
            # Rotary tables are made anew, as on loading: rounded ones would stay rounded.
            rotary = self.model.cfg.positional_embedding_type == "rotary"
            for block in self.model.blocks if rotary else ():
                attention: Any = block.attn
                attention._extend_rotary_embeddings(len(attention.rotary_sin))

    def empty_cache(self, batch: int, *, shared: bool = False) -> KeyValueCache:
        if shared:
            return SharedPrefixCache.empty(self.model, batch)
        cache: KeyValueCache = TransformerLensKeyValueCache.init_cache(
            self.model.cfg, self.device, batch
        )
        return cache

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        return self.model.embed(tokens.to(self.device))  # type: ignore[no-any-return]

    def forward(
        self,
        embeddings: Float[Tensor, "batch new d_model"],
        mask: Int[Tensor, "batch pos"],
        cache: KeyValueCache,
        hooks: Hooks = (),
        hidden: Hidden = NOTHING,
    ) -> Float[Tensor, "batch new d_model"]:
        with attached(self.model, hooks):
            if isinstance(cache, SharedPrefixCache):
                cache.begin_pass(self.model, mask, embeddings.shape[1], hidden)
            residual = self.model(
                self._positioned(self.model.hook_embed(embeddings), mask),
                start_at_layer=0,
                stop_at_layer=self.model.cfg.n_layers,
                past_kv_cache=cache,
                attention_mask=mask,
            )
            return self.model.ln_final(residual)  # type: ignore[no-any-return]

    def _positioned(
        self, embeddings: Float[Tensor, "batch new d_model"], mask: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch new d_model"]:
        """The new positions with learned positions added, which thoughts get as tokens do; left padding has none."""
        if self.model.cfg.positional_embedding_type != "standard":
            return embeddings
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -embeddings.shape[1] :]
        return embeddings + self.model.hook_pos_embed(self.model.pos_embed.W_pos[positions])  # type: ignore[no-any-return]

    def unembed(
        self, final: Float[Tensor, "... d_model"], hooks: Hooks = ()
    ) -> Float[Tensor, "... d_vocab"]:
        with attached(self.model, [hook for hook in hooks if hook[0].startswith("unembed.")]):
            return self.model.unembed(final)  # type: ignore[no-any-return]


@enough_memory("the hooked model")
def to_hooked(model: PreTrainedModel) -> HookedTransformer:
    """Wraps a model as a `HookedTransformer`; both use the same storage afterwards.

    Hook points are TransformerLens' own, at `blocks.{layer}.…` with shapes [batch, pos, d_model] and so
    on. Weights stay in their dtype, on their device, and do not require gradients.

    Raises:
        UserError: for a config that TransformerLens does not compute exactly.
    """
    architecture = architecture_of(model.config.model_type)
    cfg = architecture.hooked_config(model.config, model.dtype)
    with warnings.catch_warnings():
        # TransformerLens announces the end of HookedTransformer in its version 4; this package pins <4.
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        # On the CPU untouched allocations cost no memory; assign=True below then replaces them all.
        hooked = HookedTransformer(cfg, move_to_device=False)
    install(hooked)
    state = architecture.hooked_weights(model, cfg)
    own = {name: tensor for name, tensor in hooked.state_dict().items() if name not in state}
    # Buffers, and biases that the model does not have, are as TransformerLens makes them; weights are not.
    if unfilled := [name for name in own if re.search(r"\.(_?W_\w+|w)$", name)]:
        raise UserError(
            f"{unfilled[0]!r} of the hooked model is not filled; expected every weight from the "
            f"{architecture.model_type!r} architecture"
        )
    hooked.load_state_dict(state | own, strict=True, assign=True)
    hooked.cfg.device = str(model.device)
    hooked.to(model.device, print_details=False)
    hooked.eval().requires_grad_(False)
    return hooked


_LOCKS: WeakKeyDictionary[HookedTransformer, threading.RLock] = WeakKeyDictionary()
"""One per model: hooks hang on the model itself, so two threads' passes must not overlap."""


def lock_of(model: HookedTransformer) -> "threading.RLock":
    """The lock that a pass through the model holds; a hook may start a run of its own under it."""
    return _LOCKS.setdefault(model, threading.RLock())


@contextmanager
def attached(model: HookedTransformer, hooks: Hooks) -> Iterator[None]:
    """`model.hooks(fwd_hooks=hooks)`, held by one thread at a time, which on leaving clears these alone.

    TransformerLens visits every hook point of the model, which takes as long as a small model's pass.
    """
    with lock_of(model):
        level = model.context_level + 1
        try:
            with model.hooks(fwd_hooks=list(hooks), reset_hooks_end=False):
                yield
        finally:
            for name, _ in hooks:
                model.hook_dict[name].remove_hooks(level=level)
