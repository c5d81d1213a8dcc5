"""What stands at each position of one question's sequence: its label, its group, and which step it belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.data.answers import Answer
from codi_lens.errors import UserError
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Step
from codi_lens.model.run import step_positions

FRAME, NUMBERS, WORDS = "frame", "numbers", "words"
"""Groups of the prompt: BOS and other tokens around the question, tokens with a digit, all other tokens of it."""


@dataclass(frozen=True)
class Positions:
    """The sequence question + bot + thoughts + eot + answer of one question, without padding."""

    labels: tuple[str, ...]
    """As `HookedCodi.to_str_tokens` has them."""
    groups: tuple[str, ...]
    """Of every position: one of `group_names`."""
    steps: dict[Step, slice]
    """As `CodiCache.positions`."""
    read_at: int
    """Where the answer's first token is predicted: the last token of its stem, or the last before the answer."""

    @property
    def latents(self) -> tuple[int, ...]:
        """The thoughts that are fed."""
        return tuple(step for step in self.steps if isinstance(step, int))

    def last(self, step: Step) -> int:
        """The last position of a step; of "answer", `read_at`.

        Raises:
            UserError: the sequence has no such step, or no position belongs to it.
        """
        if step == "answer":
            return self.read_at
        at = self.steps.get(step)
        if at is None or at.start == at.stop:
            there = ", ".join(str(name) for name, own in self.steps.items() if own.start < own.stop)
            raise UserError(f"no step {step!r} in this sequence; it has {there}")
        return at.stop - 1


def positions_of(
    codi: HookedCodi,
    question: str,
    answer: Answer | None = None,
    *,
    num_latents: int | None = None,
) -> Positions:
    """The positions that `run_with_cache` has for one question; arguments as there."""
    labels = codi.to_str_tokens(question, answer, num_latents=num_latents)
    tokens, count = codi.tokens, codi.num_latents(num_latents)
    prompt, end = len(tokens.prompt(question)), len(tokens.end())
    steps = step_positions(prompt, count, end, len(labels) - prompt - count - end)
    bos, asked = len(tokens.bos), len(tokens.question(question))
    groups = [
        _group(label) if bos <= i < asked else FRAME for i, label in enumerate(labels[: prompt - 1])
    ]
    groups += ["bot", *labels[prompt : prompt + count], *["eot"] * end]
    groups += ["answer"] * (len(labels) - len(groups))
    said, stem = labels[steps["answer"]], tokens.words(tokens.stem())
    forced = takewhile(lambda both: both[0] == both[1], zip(said, stem, strict=False))
    return Positions(tuple(labels), tuple(groups), steps, steps["eot"].stop - 1 + len(list(forced)))


def group_names(num_latents: int) -> tuple[str, ...]:
    """All groups that a position may belong to, in their order."""
    return (FRAME, NUMBERS, WORDS, "bot", *map(group_of, range(num_latents)), "eot", "answer")


def group_of(step: Step) -> str:
    """The group that a step's own positions are in, but for the prompt's: latent 3 is "z3"."""
    return f"z{step}" if isinstance(step, int) else step


def membership(positions: Positions, groups: Sequence[str]) -> Float[Tensor, "pos group"]:
    """1 where a position belongs to a group, 0 elsewhere."""
    index = [groups.index(own) for own in positions.groups]
    return torch.nn.functional.one_hot(torch.tensor(index), len(groups)).float()


def _group(label: str) -> str:
    return NUMBERS if any(letter.isdigit() for letter in label) else WORDS
