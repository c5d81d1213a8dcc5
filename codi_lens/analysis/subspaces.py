"""Subspaces that hold a result: distributed alignment search (DAS; Geiger et al., arXiv 2303.02536).

At a place, an orthonormal basis V [d_model, r] is learned so that exchanging only what lies in its span between two questions
makes the answer the one that follows from the *other* question's result. The score is the interchange intervention
accuracy (IIA) on questions that were not learned from, beside a random V of the same rank and the whole vector.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from codi_lens.analysis.asking import right
from codi_lens.data.answers import Answer
from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError, whole_number
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import HookFn, Site
from codi_lens.patching.interventions import InSubspace
from codi_lens.patching.means import activations
from codi_lens.patching.places import check_row, sites_of
from codi_lens.patching.plan import SOURCE
from codi_lens.patching.settings import Label

BATCH = 64
SPREAD = 0.97
"""Of the variance between sources and bases, in the directions that the search starts from."""
DECAY = 1.0
"""Weight decay of the search (AdamW): directions that nothing is learned of fade."""
HELD_OUT = 4
"""Of so many couples of questions, one is not learned from."""


@dataclass(frozen=True)
class Example:
    """An interchange, and the answer that it must give."""

    base: str
    source: str
    answer: Answer


@dataclass(frozen=True)
class Alignment:
    """A subspace that was learned at a place, and what exchanging it does on held-out examples."""

    site: Site
    basis: Float[Tensor, "d_model rank"]
    """Orthonormal columns."""
    iia: float
    random: float
    """The same with a random subspace of this rank."""
    whole: float
    """The same with the whole vector exchanged."""
    losses: tuple[float, ...]
    """Of every learning step, in nats."""
    n: int
    """Held-out examples."""

    def intervention(self) -> InSubspace:
        """What the source run has in the subspace, to put in with `patch_positions(…, intervention=…)`."""
        return InSubspace((SOURCE,), self.basis)

    def overlap(self, other: Float[Tensor, "d_model rank_2"]) -> float:
        """Mean squared cosine of the angles to another subspace: 1 if one lies in the other, 0 if orthogonal."""
        return overlap(self.basis, other)


def overlap(one: Float[Tensor, "d_model rank"], other: Float[Tensor, "d_model rank_2"]) -> float:
    """Mean squared cosine of the principal angles of two subspaces, given orthonormal bases."""
    return float((one.T @ other.to(one)).square().sum() / min(one.shape[1], other.shape[1]))


def examples_of(pairs: Sequence[Pair], result: int) -> list[Example]:
    """Interchanges of one result between the sides of pairs, in both directions.

    Where the result differs between the sides, so do all behind it, and the source's answer follows; where it does
    not, the base's own answer stays.

    Args:
        pairs: that know their results on the way.
        result: its index among the results on the way and the answer.

    Raises:
        UserError: a pair that has no such result.
    """
    found = []
    for pair in pairs:
        clean, corrupted = ((*s.intermediates, s.answer) for s in (pair.clean, pair.corrupted))
        if result >= min(len(clean), len(corrupted)):
            raise UserError(
                f"pair {pair.pair_id} has {len(clean)} results, so none of number {result}; give pairs with intermediates"
            )
        for base, source in ((pair.corrupted, pair.clean), (pair.clean, pair.corrupted)):
            differs = clean[result] != corrupted[result]
            found.append(
                Example(base.question, source.question, (source if differs else base).answer)
            )
    return found


def align(
    codi: HookedCodi,
    examples: Sequence[Example],
    place: Label,
    step: Label,
    rank: int,
    *,
    site: str = "resid_post",
    steps: int = 150,
    lr: float = 0.02,
    seed: int = 0,
) -> Alignment:
    """Learns the subspace of a place that holds a result.

    Args:
        codi: the model.
        examples: interchanges of that result, such as `examples_of` makes of pairs; every fourth couple of questions is held out.
        place: a row as in `patch_positions`: a layer, "thought", a head ….
        step: a latent, "bot" or "eot".
        rank: of the subspace.
        site: of a layer.
        steps: of AdamW, each on up to 64 examples.
        lr: its learning rate.
        seed: of the start, of the order, and of the random subspace.

    Raises:
        UserError: a place that the model does not have, a rank above its width, or too few examples.
    """
    check_row(place, codi)
    (where,) = sites_of(site, place, step)  # type: ignore[arg-type]
    held_out, learned = _split(examples)
    if not learned:
        raise UserError(
            f"{len(examples)} examples of one couple of questions leave none to learn from; give two couples"
        )
    sources = activations(codi, [example.source for example in examples], [where])[where]
    width, rank = sources.shape[-1], whole_number(rank, "rank", at_least=1)
    if rank > width:
        raise UserError(f"rank {rank} is more than the {width} dimensions at {where.name}")
    generator = torch.Generator().manual_seed(seed)
    bases = activations(codi, [example.base for example in examples], [where])[where]
    span = _varying(sources - bases, rank)
    free = span @ torch.randn(span.shape[1], rank, generator=generator, dtype=torch.float64).to(
        span
    )
    random = torch.linalg.qr(torch.randn(width, rank, generator=generator).to(sources))[0]
    taught = [examples[i] for i in learned]
    basis, losses = _learned(codi, taught, sources[learned], where, free, steps, lr, generator)
    asked = [examples[i] for i in held_out]
    compared = {"iia": basis, "random": random, "whole": torch.eye(width).to(sources)}
    rates = {
        name: _iia(codi, asked, sources[held_out], where, one) for name, one in compared.items()
    }
    return Alignment(where, basis, losses=tuple(losses), n=len(held_out), **rates)


def _split(examples: Sequence[Example]) -> tuple[list[int], list[int]]:
    """Indices of the examples that are held out, and of those to learn from; both directions of a couple together."""
    couples = [frozenset((example.base, example.source)) for example in examples]
    number = {couple: i for i, couple in enumerate(dict.fromkeys(couples))}
    held_out = [i for i, couple in enumerate(couples) if number[couple] % HELD_OUT == 0]
    return held_out, sorted(set(range(len(examples))) - set(held_out))


def _learned(
    codi: HookedCodi,
    examples: Sequence[Example],
    sources: Float[Tensor, "example width"],
    site: Site,
    free: Float[Tensor, "width rank"],
    steps: int,
    lr: float,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "width rank"], list[float]]:
    """The basis that makes the answers likeliest: the Q of a free matrix, so that it stays orthonormal."""
    free = free.clone().requires_grad_()
    optimizer, losses = torch.optim.AdamW([free], lr=lr, weight_decay=DECAY), []
    for batch in _batches(len(examples), steps, generator):
        basis = torch.linalg.qr(free)[0]
        chosen = [examples[i] for i in batch]
        loss = _loss(codi, chosen, site, _exchange(site, sources[batch], basis))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.linalg.qr(free.detach())[0], losses


def _varying(changes: Float[Tensor, "example width"], rank: int) -> Float[Tensor, "width varying"]:
    """An orthonormal basis of the directions in which examples differ; of all, where these are no more than `rank`.

    A search that starts in the others keeps what it started from: little is learned of them. It may end there, since
    what is read of a place need not lie where the place varies.
    """
    _, sizes, directions = torch.linalg.svd(changes.double(), full_matrices=True)
    shares = (sizes.square() / sizes.square().sum()).cumsum(0)
    count = int((shares < SPREAD).sum()) + 1
    return directions[: count if count > rank else len(directions)].T.to(changes)


def _batches(count: int, steps: int, generator: torch.Generator) -> Iterator[list[int]]:
    order: list[int] = []
    for _ in range(steps):
        if len(order) < min(BATCH, count):
            order += torch.randperm(count, generator=generator).tolist()
        yield order[:BATCH]
        order = order[BATCH:]


def _loss(codi: HookedCodi, examples: Sequence[Example], site: Site, exchange: HookFn) -> Tensor:
    """Cross-entropy of the answers' tokens, the stem forced."""
    answers = [example.answer for example in examples]
    with torch.enable_grad():
        run = codi.run_with_hooks(
            [example.base for example in examples], answers, fwd_hooks=[(site, exchange)]
        )
        stem, losses = len(codi.tokens.stem()), []
        for row, tokens in enumerate(run.answer_tokens):
            targets = torch.tensor(tokens[stem:], device=run.logits.device)
            losses.append(F.cross_entropy(run.logits[row, stem : len(tokens)], targets))
        return torch.stack(losses).mean()


@torch.no_grad()
def _iia(
    codi: HookedCodi,
    examples: Sequence[Example],
    sources: Float[Tensor, "example width"],
    site: Site,
    basis: Float[Tensor, "width rank"],
) -> float:
    """Share of interchanges after which the greedy answer is the one that follows."""
    hits: list[bool] = []
    for start in range(0, len(examples), BATCH):
        part = examples[start : start + BATCH]
        exchange = _exchange(site, sources[start : start + BATCH], basis)
        texts = codi.generate([example.base for example in part], fwd_hooks=[(site, exchange)])
        hits += right(codi, texts, [example.answer for example in part])
    return sum(hits) / len(hits)


def _part(activation: Tensor, site: Site) -> Tensor:
    return activation if site.part is None else activation[:, site.part]


def _exchange(site: Site, sources: Tensor, basis: Tensor) -> HookFn:
    """Puts the sources' part in the subspace in, at the last position of the step."""

    def hook_fn(activation: Tensor, hook: object) -> Tensor:
        own = _part(activation[:, -1], site)
        moved = InSubspace.exchanged(own, sources, basis)
        out = activation.clone()
        out[:, -1] = (
            moved
            if site.part is None
            else out[:, -1].index_copy(1, torch.tensor([site.part]), moved[:, None])
        )
        return out

    return hook_fn
