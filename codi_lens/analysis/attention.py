"""Attention from the steps of the loop: to every token of one question, and to groups of tokens over many.

Weights are those of `hook_pattern`: softmax(q k / √d_head) over the positions up to the step's own, by head.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.positions import Positions, group_names, membership, positions_of
from codi_lens.data.answers import Answer
from codi_lens.data.pairs import Variant
from codi_lens.errors import UserError, one_of
from codi_lens.model.cache import CodiCache
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Step

BATCH = 16


@dataclass(frozen=True)
class Attended:
    """A position that a step attends to."""

    position: int
    label: str
    weight: float


@dataclass(frozen=True)
class Attention:
    """Attention of one question's steps to every position."""

    weights: Float[Tensor, "layer head step pos"]
    """Each step's weights sum to 1 over positions; of a step of several positions, those of the last."""
    steps: tuple[Step, ...]
    """That attend."""
    positions: Positions
    """That are attended to: their labels, groups and steps."""

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Groups that the sequence has, in their order."""
        own = set(self.positions.groups)
        return tuple(g for g in group_names(len(self.positions.latents)) if g in own)

    def by_group(self) -> Float[Tensor, "layer head step group"]:
        """Summed over the positions of each of `groups`."""
        return _grouped(self, self.groups)

    def of(
        self, layer: int | None = None, head: int | None = None
    ) -> Float[Tensor, "chosen_step pos"]:
        """Of a head, the mean over the heads of a layer, or over the layers of a head, or over all.

        Raises:
            UserError: no such layer or head.
        """
        return _mean(self.weights, layer, head)

    def most_attended(
        self,
        *,
        layer: int | None = None,
        head: int | None = None,
        count: int = 5,
        leave_out: Collection[str] = (),
    ) -> dict[Step, list[Attended]]:
        """Of every step, the positions with the largest weights, the largest first.

        Args:
            layer, head: as in `of`.
            count: of positions, at most.
            leave_out: groups that are not listed, such as "frame", where BOS takes most of it.
        """
        for group in leave_out:
            one_of(group, group_names(len(self.positions.latents)), "group")
        there = [i for i, g in enumerate(self.positions.groups) if g not in leave_out]
        found = {}
        for step, weights in zip(self.steps, self.of(layer, head).tolist(), strict=True):
            seen = [i for i in there if i <= self.positions.last(step)]
            best = sorted(seen, key=lambda i: -weights[i])[:count]
            found[step] = [Attended(i, self.positions.labels[i], weights[i]) for i in best]
        return found


@dataclass(frozen=True)
class MeanAttention:
    """Attention of every step to every group, mean over questions."""

    weights: Float[Tensor, "layer head step group"]
    """Each step's weights sum to 1 over groups."""
    steps: tuple[Step, ...]
    groups: tuple[str, ...]
    n: int
    """Questions."""

    def of(
        self, layer: int | None = None, head: int | None = None
    ) -> Float[Tensor, "chosen_step group"]:
        """As `Attention.of`."""
        return _mean(self.weights, layer, head)


@torch.no_grad()
def attention_of(
    codi: HookedCodi,
    cache: CodiCache,
    question: str,
    answer: Answer | None = None,
    *,
    row: int = 0,
    steps: Sequence[Step] | None = None,
) -> Attention:
    """Attention from every step of one question to every position.

    Args:
        codi: the model.
        cache: of `run_with_cache`, with every layer's `attn.hook_pattern`.
        question, answer: those that this row of the cache was made of; None: the model's own greedy answer.
        row: of the batch.
        steps: that attend: "prompt", "bot", latents, "eot", and "answer", which is where the answer's first token is
            predicted, at the last of its stem. None: all but "prompt".

    Raises:
        UserError: a step that there is not, or a question and answer of another length than the cache's.
    """
    count = sum(isinstance(step, int) for step in cache.positions)
    positions = positions_of(codi, question, answer, num_latents=count)
    mask = cache.mask[row] if cache.has_batch_dim else cache.mask
    there = mask.nonzero()[:, 0]
    if len(there) != len(positions.labels):
        raise UserError(
            f"the cache has {len(there)} positions, and question and answer {len(positions.labels)}; give those "
            "that the cache was made of"
        )
    chosen = tuple(_steps(positions) if steps is None else steps)
    rows = there[[positions.last(step) for step in chosen]]
    patterns = []
    for layer in range(codi.model.cfg.n_layers):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"]
        pattern = pattern[row] if cache.has_batch_dim else pattern
        patterns.append(pattern[:, rows][:, :, there])
    return Attention(torch.stack(patterns), chosen, positions)


@torch.no_grad()
def mean_attention(
    codi: HookedCodi,
    questions: Sequence[Variant],
    *,
    steps: Sequence[Step] | None = None,
    num_latents: int | None = None,
) -> MeanAttention:
    """Attention from every step to every group of positions, mean over questions.

    Groups: "frame" (BOS and other tokens around the question), "numbers" (its tokens with a digit), "words" (its
    others), "bot", every thought, "eot", and "answer", the stem as far as it has been fed.

    Args:
        codi: the model.
        questions: with their answers, of which the stem matters alone.
        steps: as in `attention_of`.
        num_latents: number of thoughts; the model's own if None.

    Raises:
        UserError: no questions, or a step that there is not.
    """
    if not questions:
        raise UserError("no questions; give at least one")
    every = group_names(codi.num_latents(num_latents))
    attentions = _attentions(codi, questions, steps, num_latents)
    first = next(attentions)
    total = _grouped(first, every)
    for other in attentions:
        total = total + _grouped(other, every)
    mean = total / len(questions)
    used = [i for i in range(len(every)) if bool((mean[..., i] > 0).any())]
    return MeanAttention(
        mean[..., used], first.steps, tuple(every[i] for i in used), len(questions)
    )


def _attentions(
    codi: HookedCodi,
    questions: Sequence[Variant],
    steps: Sequence[Step] | None,
    num_latents: int | None,
) -> Iterator[Attention]:
    for start in range(0, len(questions), BATCH):
        part = questions[start : start + BATCH]
        _, cache = codi.run_with_cache(
            [asked.question for asked in part],
            [asked.answer for asked in part],
            num_latents=num_latents,
            names_filter=lambda name: name.endswith("attn.hook_pattern"),
        )
        for row, asked in enumerate(part):
            yield attention_of(codi, cache, asked.question, asked.answer, row=row, steps=steps)


def _steps(positions: Positions) -> Iterator[Step]:
    """Every step of a position of its own, from bot on."""
    yield "bot"
    yield from positions.latents
    eot = positions.steps["eot"]
    if eot.start < eot.stop:
        yield "eot"
    if positions.read_at >= eot.stop:
        yield "answer"


def _grouped(attention: Attention, groups: Sequence[str]) -> Float[Tensor, "layer head step group"]:
    return attention.weights @ membership(attention.positions, groups).to(attention.weights)


def _mean(
    weights: Float[Tensor, "layer head step to"], layer: int | None, head: int | None
) -> Float[Tensor, "step to"]:
    for name, at, count in (("layer", layer, weights.shape[0]), ("head", head, weights.shape[1])):
        if at is not None and not 0 <= at < count:
            raise UserError(f"no {name} {at}; {name}s are 0 to {count - 1}")
    chosen = weights if layer is None else weights[layer : layer + 1]
    chosen = chosen if head is None else chosen[:, head : head + 1]
    return chosen.mean((0, 1))
