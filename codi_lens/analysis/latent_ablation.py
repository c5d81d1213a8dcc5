"""Are the latent thoughts needed? The check that comes before any patching.

A map of latent positions means nothing for a model that answers without them. So the same questions are
asked with N, N−1, … 0 thoughts (0: an empty bot–eot wrapper), with no wrapper at all, and with thoughts
that are not their own: those of another problem whose answer differs (and how often *its* answer is
then given), the mean over all problems, and random vectors of the same norm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.choices import Filter
from codi_lens.data.answers import Answer
from codi_lens.data.donors import derange
from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError
from codi_lens.model.hooked_codi import DECODED, HookedCodi
from codi_lens.model.hooks import Site
from codi_lens.model.hooks import replace as put


@dataclass(frozen=True)
class Condition:
    """Greedy answers to all questions under one condition."""

    name: str
    texts: tuple[str, ...]
    correct: tuple[bool, ...]
    donor: tuple[bool, ...] | None = None
    """Whether the answer given is that of the problem which the thoughts came from."""

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return sum(self.correct) / len(self.correct)


@dataclass(frozen=True)
class Necessity:
    """The questions under every condition; `conditions["6 latents"]` and so on, in order."""

    questions: tuple[str, ...]
    answers: tuple[Answer, ...]
    num_latents: int
    conditions: dict[str, Condition]
    donors: tuple[int, ...]
    """For each question the number of the one whose thoughts it was lent."""

    def with_latents(self, count: int) -> Condition:
        """The condition with the model's own first `count` thoughts."""
        return self.conditions[latents_name(count)]


def latents_name(count: int) -> str:
    """Name of the condition with `count` thoughts."""
    return f"{count} latent{'' if count == 1 else 's'}"


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a share (J. Am. Stat. Assoc. 22, 1927)."""
    z = 1.959963984540054
    share, weight = successes / n, z * z / n
    centre = (share + weight / 2) / (1 + weight)
    reach = z / (1 + weight) * sqrt(share * (1 - share) / n + weight / (4 * n))
    return max(0.0, centre - reach), min(1.0, centre + reach)


@torch.no_grad()
def measure_necessity(
    codi: HookedCodi,
    questions: Sequence[str],
    answers: Sequence[Answer],
    *,
    num_latents: int | None = None,
    batch: int = 64,
    seed: int = 0,
    judge: str | None = None,
) -> Necessity:
    """Asks all questions under every condition.

    Args:
        questions, answers: with at least two different answers among them.
        num_latents: N; the model's own if None.
        batch: questions side by side, left-padded.
        seed: of donors and noise.
        judge: how answers are judged right, one of `data.judges.JUDGES`; None: as the model's config says,
            else as their kind asks.

    Raises:
        UserError: no questions, one answer to all of them, so that no donor differs, or one that cannot be judged.
    """
    if not questions:
        raise UserError("there are no questions to ask")
    count = codi.num_latents(num_latents)
    for answer in answers:
        codi.tokens.is_right("", answer, judge)  # what cannot be judged is said at once
    parts = [slice(i, i + batch) for i in range(0, len(questions), batch)]
    texts: dict[str, list[str]] = {}
    thoughts = torch.cat([_count_down(codi, questions[p], count, texts) for p in parts])
    texts["no wrapper"] = [t for p in parts for t in _without_wrapper(codi, questions[p])]
    donors = derange(answers, seed)
    replacements = {
        "another problem's": thoughts[donors],
        "mean": thoughts.mean(0).expand_as(thoughts),
        "noise": _noise_like(thoughts, seed),
    }
    for name, values in replacements.items() if count else ():
        texts[f"{name} latents"] = [t for p in parts for t in _fed(codi, questions[p], values[p])]

    def right(given: Sequence[str], wanted: Sequence[Answer]) -> tuple[bool, ...]:
        both = zip(given, wanted, strict=True)
        return tuple(codi.tokens.is_right(text, answer, judge) for text, answer in both)

    conditions = {
        n: Condition(n, tuple(given), right(given, answers)) for n, given in texts.items()
    }
    if count:
        swapped = conditions["another problem's latents"]
        donated = right(swapped.texts, [answers[donor] for donor in donors])
        conditions[swapped.name] = replace(swapped, donor=donated)
    return Necessity(tuple(questions), tuple(answers), count, conditions, tuple(donors))


def _count_down(
    codi: HookedCodi, questions: Sequence[str], count: int, texts: dict[str, list[str]]
) -> Float[Tensor, "batch latent d_model"]:
    """Decodes with N, … 0 thoughts into `texts`; returns the thoughts. Each prompt is read once."""
    behind = count + len(codi.tokens.end()) + DECODED
    state = codi.loop.begin(codi.read(questions, behind=behind))
    given = {0: codi.decode(state.copy())}
    for latents in range(1, count + 1):
        codi.loop.think(state, 1)
        given[latents] = codi.decode(state.copy())
    for latents in range(count, -1, -1):
        name = latents_name(latents)
        texts.setdefault(name, []).extend(codi.tokens.text(ids) for ids in given[latents])
    return torch.stack(state.thoughts, dim=1)[:, :count]


def _without_wrapper(codi: HookedCodi, questions: Sequence[str]) -> list[str]:
    """Answers to `[question][stem]`, with neither bot nor eot: the language model alone."""
    return [codi.tokens.text(ids) for ids in codi.decode_without_wrapper(questions)]


def _fed(
    codi: HookedCodi, questions: Sequence[str], values: Float[Tensor, "batch latent d_model"]
) -> list[str]:
    """Answers with the given vectors in place of the thoughts."""
    hooks = [(Site("hook_embed", k), put(values[:, k])) for k in range(values.shape[1])]
    answers: list[str] = codi.generate(questions, num_latents=values.shape[1], fwd_hooks=hooks)
    return answers


def _noise_like(
    thoughts: Float[Tensor, "batch latent d_model"], seed: int
) -> Float[Tensor, "batch latent d_model"]:
    """Random directions, each with the norm of the thought whose place it takes."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(thoughts.shape, generator=generator, dtype=torch.float64).to(thoughts)
    return noise / noise.norm(dim=-1, keepdim=True) * thoughts.norm(dim=-1, keepdim=True)


def passing(
    codi: HookedCodi, pairs: Sequence[Pair], kind: Filter, *, num_latents: int | None = None
) -> list[Pair]:
    """The pairs of a filter: all; both questions answered right; and both wrong without thoughts."""
    if kind == "none":
        return list(pairs)
    kept = list(pairs)
    for latents, wanted in ((codi.num_latents(num_latents), True), (0, False)):
        if latents or kind == "latent-dependent":
            variants = [variant for pair in kept for variant in (pair.clean, pair.corrupted)]
            texts: list[str] = []
            for i in range(0, len(variants), 64):
                questions = [variant.question for variant in variants[i : i + 64]]
                texts += codi.generate(questions, num_latents=latents)
            right = [
                codi.tokens.is_right(t, v.answer) for t, v in zip(texts, variants, strict=True)
            ]
            both = zip(kept, right[::2], right[1::2], strict=True)
            kept = [pair for pair, a, b in both if a == wanted and b == wanted]
    return kept
