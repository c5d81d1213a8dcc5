"""Interchanges between the problems of a batch, in the form that training needs: a rule for every row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from codi_lens.organisms.planted.family import Subspaces
from codi_lens.organisms.planted.mechanism import KV, PARTS, Rule
from codi_lens.organisms.toy.forward import Batch, Prefix, own, read_question, think

HELD = len(PARTS)
"""Beside the parts that can be exchanged: the thought is kept at what it is without any exchange."""


@dataclass(frozen=True)
class Thinking:
    """The thoughts of a batch, and all that an interchange may take from them."""

    question: Prefix
    prefix: Prefix
    """Behind the last thought."""
    states: Float[Tensor, "latent batch d_model"]
    """Final states, from which the thoughts are made."""
    thoughts: Float[Tensor, "latent batch d_model"]


def think_alone(
    model: PreTrainedModel, projection: nn.Module, batch: Batch, n_latents: int
) -> Thinking:
    """The model's own thoughts."""
    states: list[Tensor] = []

    def feed(step: int, state: Tensor) -> Tensor:
        states.append(state)
        return own(projection)(step, state)

    question, _ = read_question(model, batch)
    prefix, thoughts = think(model, feed, batch, question, n_latents)
    return Thinking(question, prefix, torch.stack(states), torch.stack(thoughts))


def choices_of(rules: Sequence[Rule], n_latents: int) -> Bool[Tensor, "rule latent choice"]:
    """Which parts each rule exchanges at each latent, and which thoughts it holds (the last choice)."""
    chosen = torch.zeros(len(rules), n_latents, len(PARTS) + 1, dtype=torch.bool)
    for i, rule in enumerate(rules):
        for part, latent in rule.exchanged:
            chosen[i, latent, PARTS.index(part)] = True
        for latent in rule.held:
            chosen[i, latent, HELD] = True
    return chosen


def think_exchanged(
    model: PreTrainedModel,
    projection: nn.Module,
    batch: Batch,
    alone: Thinking,
    donors: Int[Tensor, " batch"],
    chosen: Bool[Tensor, "batch latent choice"],
    subspaces: Subspaces | None = None,
) -> tuple[Prefix, list[Float[Tensor, "batch d_model"]]]:
    """Thinks again, with parts exchanged row by row for those of the donors, which are rows of the batch as well.

    Returns what the answer goes on from, and the final states from which the thoughts would be made.

    Args:
        donors: the row from which each row takes what it is lent. Its prompt must be as long.
        chosen: `choices_of` the rule of each row.
    """
    n_question = alone.question.visible.shape[1]
    own_caches = cast(list[DynamicLayer], alone.prefix.cache.layers)

    states: list[Tensor] = []

    def feed(step: int, state: Tensor) -> Tensor:
        states.append(state)
        thought = own(projection)(step, state)
        kept = alone.thoughts[step]
        other = kept[donors]
        mask = chosen[:, step, :, None]
        if subspaces is not None:
            for half in range(2):
                part = PARTS.index(f"half {half}")
                exchanged = subspaces.exchanged(thought, other, half)
                thought = torch.where(mask[:, part], exchanged, thought)
        thought = torch.where(mask[:, 0], other, thought)
        return torch.where(mask[:, HELD], kept, thought)

    def after(step: int, cache: DynamicCache) -> None:
        lends = chosen[:, step, PARTS.index(KV)]
        if not lends.any():
            return
        mask = lends[:, None, None, None]
        at = slice(n_question + step, n_question + step + 1)
        for layer, lender in zip(cast(list[DynamicLayer], cache.layers), own_caches, strict=True):
            for name in ("keys", "values"):
                others = getattr(lender, name)[donors][:, :, at]
                setattr(layer, name, _with_last(getattr(layer, name), others, mask))

    return think(model, feed, batch, alone.question, chosen.shape[1], after)[0], states


def _with_last(own_ones: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """Keys or values [batch, head, pos, d_head] whose last position is another's where the mask says so."""
    last = torch.where(mask, others, own_ones[:, :, -1:])
    return torch.cat([own_ones[:, :, :-1], last], dim=2)
