"""Greedy answers to questions under conditions: with fewer thoughts, with none, and without the wrapper."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.data.answers import Answer
from codi_lens.errors import UserError
from codi_lens.model.hooked_codi import DECODED, HookedCodi
from codi_lens.model.hooks import AddressedHook

NO_WRAPPER = "no wrapper"
"""The condition without thoughts and without the tokens around them."""


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

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the accuracy."""
        return wilson(sum(self.correct), len(self.correct))


@dataclass(frozen=True)
class Asked:
    """Answers to some questions by condition: fewer and fewer thoughts, then no wrapper."""

    texts: dict[str, list[str]]
    cut: dict[str, list[bool]]
    """Whether an answer has as many tokens as were decoded at most, so that it may go on."""
    thoughts: Float[Tensor, "batch latent d_model"]


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


def ask_under_hooks(
    codi: HookedCodi,
    questions: Sequence[str],
    answers: Sequence[Answer],
    fwd_hooks: Iterable[AddressedHook] = (),
    *,
    num_latents: int | None = None,
    batch: int = 64,
    judge: str | None = None,
) -> Condition:
    """Greedy answers under hooks, and how many are right: accuracy after an ablation.

    Args:
        questions, answers: as many of each.
        fwd_hooks: as in `HookedCodi.run_with_hooks`; each sees up to `batch` questions side by side.
        judge: how answers are judged, one of `data.judges.JUDGES`; None: as the model's config says.

    Raises:
        UserError: no questions, or not as many answers.
    """
    if not questions or len(questions) != len(answers):
        raise UserError(
            f"{len(questions)} questions and {len(answers)} answers; give one answer each"
        )
    hooks, texts = list(fwd_hooks), []
    for start in range(0, len(questions), batch):
        part = list(questions[start : start + batch])
        texts += codi.generate(part, num_latents=num_latents, fwd_hooks=hooks)
    return Condition("under hooks", tuple(texts), right(codi, texts, answers, judge))


@torch.no_grad()
def ask(
    codi: HookedCodi, questions: Sequence[str], count: int, max_new_tokens: int = DECODED
) -> Asked:
    """Asks a batch of questions with N = `count`, … 0 thoughts, and without the wrapper.

    Each prompt is read once; answers are decoded from copies of the state.
    """
    behind = count + len(codi.tokens.end()) + max_new_tokens
    state = codi.loop.begin(codi.read(questions, behind=behind))
    given = {latents_name(0): codi.decode(state.copy(), max_new_tokens)}
    for latents in range(1, count + 1):
        codi.loop.latent_step(state, latents - 1)
        given[latents_name(latents)] = codi.decode(state.copy(), max_new_tokens)
    given = dict(reversed(given.items()))
    given[NO_WRAPPER] = codi.decode_without_wrapper(questions, max_new_tokens)
    return Asked(
        {name: [codi.tokens.text(ids) for ids in answers] for name, answers in given.items()},
        {name: [len(ids) == max_new_tokens for ids in answers] for name, answers in given.items()},
        torch.stack(state.thoughts, dim=1)[:, :count],
    )


def right(
    codi: HookedCodi, texts: Iterable[str], answers: Iterable[Answer], judge: str | None = None
) -> tuple[bool, ...]:
    """Whether each text gives its answer; `judge` as in `CodiTokens.is_right`."""
    both = zip(texts, answers, strict=True)
    return tuple(codi.tokens.is_right(text, answer, judge) for text, answer in both)
