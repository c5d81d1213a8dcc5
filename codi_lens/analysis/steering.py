"""Steering: what adding a direction to an activation does to the answer, from little of it to much (Turner et al., arXiv
2308.10248; Rimsky et al., arXiv 2312.06681).

The corrupted question is asked, and strength · vector is added at one place and step. The vector is

* the mean over pairs of clean − corrupted: what `intervention="steer"` adds, or
* with a label, the mean over questions with the clean side's label − that over questions with the corrupted side's: a
  vector for every pair, which is to make the answer follow the clean side's label, or
* the caller's own, such as a probe's direction.

Vectors are cross-fitted: a pair is steered by what the pairs of the other folds give. The control is a random
vector as long as each pair's own.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from codi_lens.analysis.labels import labels_of, variants_of
from codi_lens.analysis.probes.fitting import folds_of, groups_of, splits_of
from codi_lens.data.answers import Answer
from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError, known_options, whole_number
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.checks import check_pairs
from codi_lens.patching.experiments import POSITIONS
from codi_lens.patching.interventions import Add, unit_vector
from codi_lens.patching.means import activations
from codi_lens.patching.plan import SourceOf, vector_at
from codi_lens.patching.replacements import CUSTOM, Replacement
from codi_lens.patching.settings import Label, Settings
from codi_lens.patching.sweep import make_settings, run_experiment

STRENGTHS = (0.0, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Swept:
    """What pairs answer at every strength."""

    right: Float[Tensor, "pair strength"]
    """Whether the answer is still the corrupted question's own, which was asked."""
    flipped: Float[Tensor, "pair strength"]
    """Whether it has become the clean question's."""
    logit_diff: Float[Tensor, "pair strength"]
    """logit(clean) − logit(corrupted) where the answers part, in logits."""


@dataclass(frozen=True)
class Steering:
    """Pairs steered at one place and step."""

    settings: Settings
    what: str
    """Which vectors are added, in words."""
    pairs: tuple[Pair, ...]
    """Those that there is a vector for."""
    left_out: int
    """Pairs whose labels are the same on both sides, or not seen in the other folds."""
    strengths: tuple[float, ...]
    vectors: Float[Tensor, "pair width"]
    """Each pair's, from the other folds."""
    steered: Swept
    random: Swept
    """By a random vector of the same length."""

    @property
    def place(self) -> Label:
        """Where the vector is added."""
        return self.settings.layers[0]

    @property
    def step(self) -> Label:
        """At which step."""
        return self.settings.positions[0]


@known_options
def steer(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    place: Label,
    step: Label,
    *,
    strengths: Sequence[float] = STRENGTHS,
    label: str | None = None,
    vector: Float[Tensor, " width"] | None = None,
    site: str = "resid_post",
    num_latents: int | None = None,
    folds: int = 5,
    seed: int = 0,
    batch_rows: int | None = None,
) -> Steering:
    """Adds a direction at a place, at several strengths.

    Args:
        codi: the model.
        pairs: clean and corrupted questions.
        place: a row as in `patch_positions`: a layer, "thought", a head ….
        step: a latent, "bot" or "eot".
        strengths: how often the vector is added.
        label: classes between which the vector leads, by name (`analysis.labels`); None: clean − corrupted.
        vector: added as it is, instead.
        site: of a layer.
        num_latents: thoughts; the model's own number if None.
        folds: of the cross-fitting, over pairs.
        seed: of the folds and of the random vectors.
        batch_rows: runs side by side, at most.

    Raises:
        UserError: a place that the model does not have, fewer pairs than folds, or no pair that there is a vector for.
    """
    settings = make_settings(
        codi,
        layers=[place],
        positions=[step],
        num_latents=num_latents,
        site=site,
        seed=seed,
        intervention=CUSTOM,
    )
    check_pairs(codi, pairs, settings.num_latents)
    amounts = _amounts(strengths)
    kept, vectors = _vectors(codi, pairs, settings, label, vector, folds)
    if not kept:
        raise UserError(
            f"for none of the {len(pairs)} pairs is there a vector between labels {label}; give more pairs"
        )
    chosen = [pairs[i] for i in kept]
    length = vectors.norm(dim=1, keepdim=True)
    drawn = [unit_vector(_number(seed, pair), vectors.shape[1]) for pair in chosen]
    steered, control = (
        _swept(codi, chosen, settings, one, amounts, batch_rows)
        for one in (vectors, length * torch.stack(drawn).to(vectors))
    )
    if vector is not None:
        what = "a vector of one's own"
    else:
        what = "mean clean − corrupted" if label is None else f"between classes of {label}"
        what += ", of the other folds"
    left_out = len(pairs) - len(kept)
    return Steering(settings, what, tuple(chosen), left_out, amounts, vectors, steered, control)


def _amounts(strengths: Sequence[float]) -> tuple[float, ...]:
    numbers = [isinstance(one, Real) and abs(one) < float("inf") for one in strengths]
    if not numbers or not all(numbers):
        raise UserError(f"strengths are {strengths!r}; give a list of finite numbers")
    return tuple(map(float, strengths))


def _number(seed: int, pair: Pair) -> int:
    """Of a random vector: another one for every pair, whatever the others are."""
    return random.Random(f"{seed}/{pair.pair_id}").getrandbits(62)


def _vectors(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    settings: Settings,
    label: str | None,
    vector: Tensor | None,
    folds: int,
) -> tuple[list[int], Float[Tensor, "kept width"]]:
    """The pairs that there is a vector for, by index, and the vectors."""
    site = vector_at(settings, settings.layers[0], settings.positions[0])
    if vector is not None:
        if label is not None:
            raise UserError(f"label={label!r} means nothing beside a vector; leave one of them out")
        return list(range(len(pairs))), vector.double().expand(len(pairs), -1)
    splits = splits_of(groups_of(pairs), whole_number(folds, "folds", at_least=2), settings.seed)
    fold, sides = folds_of(splits)[::2], variants_of(pairs)
    questions = [side.question for side in sides]
    found = activations(codi, questions, [site], settings.num_latents)[site]
    kept = found.double().cpu().reshape(len(pairs), 2, -1)
    if label is None:
        changes = kept[:, 0] - kept[:, 1]
        means = [changes[fold != own].mean(0) for own in range(folds)]
        return list(range(len(pairs))), torch.stack(means)[fold]
    labels = labels_of(sides, label)
    between = {}
    for i in range(len(pairs)):
        goal, own = (
            _class_mean(kept, labels, fold != fold[i], labels[2 * i + side]) for side in (0, 1)
        )
        if labels[2 * i] != labels[2 * i + 1] and goal is not None and own is not None:
            between[i] = goal - own
    return list(between), torch.stack(list(between.values())) if between else kept[:0, 0]


def _class_mean(
    kept: Float[Tensor, "pair 2 width"],
    labels: Sequence[Answer],
    learned: Bool[Tensor, " pair"],
    label: Answer,
) -> Float[Tensor, " width"] | None:
    """The mean over questions of the pairs learned from that have a label; None if there are none."""
    there = torch.tensor([one == label for one in labels]).view(-1, 2) & learned[:, None]
    return kept[there].mean(0) if there.any() else None


def _swept(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    settings: Settings,
    vectors: Float[Tensor, "pair width"],
    strengths: Sequence[float],
    batch_rows: int | None,
) -> Swept:
    """Every pair with its vector added, at every strength."""
    found: list[list[Tensor]] = []
    for strength in strengths:

        def source(pair: int, strength: float = strength) -> SourceOf:
            return lambda site: Add((), vectors[pair], strength)

        sweep = run_experiment(
            POSITIONS,
            codi,
            pairs,
            settings,
            replacement=Replacement(source),
            batch_rows=batch_rows,
        )
        names = ("base_given", "flipped", "logit_diff")
        found.append([sweep.values(name)[:, 0, 0, 0] for name in names])
    return Swept(*(torch.stack(one, dim=1) for one in zip(*found, strict=True)))
