"""How far a batch has come in the latent loop."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from codi_lens.errors import UserError
from codi_lens.model.backend import KeyValueCache
from codi_lens.model.hooks import Step
from codi_lens.model.knockouts import Knockout
from codi_lens.model.prefix_cache import SharedPrefixCache


@dataclass
class LoopState:
    """How far a batch of rows has come: its keys and values, mask, and the thoughts so far."""

    cache: KeyValueCache
    mask: Int[Tensor, "batch pos"]
    """1 for a token that was fed, 0 for padding."""
    bot: Int[Tensor, "batch 1"]
    """The prompt's last token, which is fed at step `bot`."""
    final_states: list[Float[Tensor, "batch d_model"]] = field(default_factory=list)
    """h at bot and at every latent step so far: N + 1 of them when the loop is through."""
    thoughts: list[Float[Tensor, "batch d_model"]] = field(default_factory=list)
    """prj(h) for each of `final_states`; the last, z_N, is never fed."""
    steps: tuple[Step, ...] = ()
    """Of every position so far."""
    knockouts: tuple[tuple[Knockout, ...], ...] = ()
    """What each row cannot attend to from here on; (): every row sees all."""

    def select(self, rows: Sequence[int]) -> Self:
        """The state of the given rows, in that order; a row may occur often. The original stays.

        Raises:
            UserError: the prompt is not one that rows can share; see `LatentLoop.read_to_share`.
        """
        if not isinstance(self.cache, SharedPrefixCache):
            raise UserError("rows can be selected once the prompts are shared")
        index = torch.tensor(rows, dtype=torch.long, device=self.mask.device)
        return replace(
            self,
            cache=self.cache.select(rows, index),
            mask=self.mask[index],
            bot=self.bot[index],
            final_states=[h[index] for h in self.final_states],
            thoughts=[z[index] for z in self.thoughts],
            knockouts=tuple(self.knockouts[row] for row in rows) if self.knockouts else (),
        )

    def lend(self, step: Step, rows: Sequence[int], lenders: Sequence[int]) -> None:
        """Gives rows, in place, other rows' keys and values of a step behind the prompt, in all layers."""
        if not isinstance(self.cache, SharedPrefixCache):
            raise UserError("keys and values can be lent once the prompts are shared")
        position = self.steps.index(step)
        for entry in self.cache.entries:
            own = position - entry.prefix_keys.shape[-1]
            for kept in (entry.keys, entry.values):
                kept[list(rows), :, own] = kept[list(lenders), :, own]

    def crop(self, length: int) -> Self:
        """The state as it was after `length` positions, prompt included; thoughts are all kept."""
        if not isinstance(self.cache, SharedPrefixCache):
            raise UserError("a state can be cropped once the prompts are shared")
        return replace(
            self,
            cache=self.cache.crop(length),
            mask=self.mask[:, :length],
            steps=self.steps[:length],
        )

    def copy(self) -> Self:
        """A state that goes on by itself: passes on it leave this one as it is."""
        entries: list[Any] = [replace(entry) for entry in self.cache.entries]
        return replace(
            self,
            cache=replace(self.cache, entries=entries),  # type: ignore[arg-type]
            final_states=list(self.final_states),
            thoughts=list(self.thoughts),
        )
