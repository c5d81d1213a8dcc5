"""Clean/corrupted pairs of held-out problems that differ in one operand and in the answer."""

import itertools
import random
from collections.abc import Callable, Sequence

from codi_lens.data.pairs import Pair, Variant
from codi_lens.errors import UserError
from codi_lens.organisms.planted.task import WORDINGS, Problem, Task, is_heldout

N_PAIRS = 48
_DRAWS, _TRIES = 200, 20

Right = Callable[[Sequence[Problem]], Sequence[bool]]
"""Which problems the model answers right."""


def make_pairs(task: Task, right: Right, *, seed: int = 0, count: int = N_PAIRS) -> list[Pair]:
    """Seeded pairs, evenly over operands and wordings; the model answers both sides right.

    Raises:
        UserError: the model is right on too few problems.
    """
    rng = random.Random(seed)
    # An operand that makes no difference by itself, such as one that only places depend on, has no pairs.
    sorts = [
        (wording, operand)
        for wording in WORDINGS
        for operand in range(len(task.operands))
        if any(_candidate(task, wording, operand, rng) for _ in range(_DRAWS))
    ]
    pairs: list[Pair] = []
    for pair_id, (wording, operand) in zip(range(count), itertools.cycle(sorts), strict=False):
        sides = _right_one(task, wording, operand, rng, right)
        if sides is None:
            raise UserError(
                f"only {len(pairs)} of {count} pairs: the model answers too few problems right; train it longer"
            )
        clean, corrupted = map(variant_of, sides)
        pairs.append(Pair(pair_id, clean, corrupted, wording, task.operands[operand]))
    return pairs


def _right_one(
    task: Task, wording: str, operand: int, rng: random.Random, right: Right
) -> tuple[Problem, Problem] | None:
    """Two problems that the model answers right; None if it fails too often."""
    failed = 0
    for _ in range(_DRAWS):
        sides = _candidate(task, wording, operand, rng)
        if sides and all(right(sides)):
            return sides
        failed += sides is not None
        if failed == _TRIES:
            break
    return None


def _candidate(
    task: Task, wording: str, operand: int, rng: random.Random
) -> tuple[Problem, Problem] | None:
    """A held-out problem, and one that differs in this operand; None where the draw has no such partner."""
    (clean,) = task.sample(rng, 1, wording, heldout=True)
    others = []
    for number in task.choices(clean, operand):
        numbers = list(clean.numbers)
        numbers[operand] = number
        if is_heldout(numbers, clean.operations):
            others.append(task.make(numbers, clean.operations, wording))
    return (clean, rng.choice(others)) if others else None


def variant_of(problem: Problem) -> Variant:
    """A problem as the side of a pair, with its numbers and its results on the way."""
    *on_the_way, answer = problem.values
    return Variant(problem.question, answer, problem.numbers, tuple(on_the_way))
