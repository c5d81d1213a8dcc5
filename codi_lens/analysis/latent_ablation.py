"""Are the latent thoughts needed? The check that comes before any patching.

A map of latent positions means nothing for a model that answers without them. So the same questions are
asked with N, N−1, … 0 thoughts (0: an empty bot–eot wrapper), with no wrapper at all, and with thoughts
that are not their own: those of another problem whose answer differs (and how often *its* answer is
then given), the mean over all problems, and random vectors of the same norm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.asking import Condition, ask, latents_name, right
from codi_lens.choices import Filter
from codi_lens.data.answers import Answer
from codi_lens.data.donors import derange
from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Site
from codi_lens.model.hooks import replace as put


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
    asked = [ask(codi, questions[p], count) for p in parts]
    texts = {name: [t for part in asked for t in part.texts[name]] for name in asked[0].texts}
    thoughts = torch.cat([part.thoughts for part in asked])
    donors = derange(answers, seed)
    replacements = {
        "another problem's": thoughts[donors],
        "mean": thoughts.mean(0).expand_as(thoughts),
        "noise": _noise_like(thoughts, seed),
    }
    for name, values in replacements.items() if count else ():
        texts[f"{name} latents"] = [t for p in parts for t in _fed(codi, questions[p], values[p])]
    conditions = {
        name: Condition(name, tuple(given), right(codi, given, answers, judge))
        for name, given in texts.items()
    }
    if count:
        swapped = conditions["another problem's latents"]
        donated = right(codi, swapped.texts, [answers[donor] for donor in donors], judge)
        conditions[swapped.name] = replace(swapped, donor=donated)
    return Necessity(tuple(questions), tuple(answers), count, conditions, tuple(donors))


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
