"""Whose thoughts or activations stand in for one's own: another problem's, whose answer differs."""

import random
from collections.abc import Sequence

from codi_lens.data.answers import Answer, same_answer
from codi_lens.data.pairs import Pair, Side, side_of
from codi_lens.errors import UserError


def derange(answers: Sequence[Answer], seed: int) -> list[int]:
    """For each problem another one whose answer differs, drawn at random.

    Raises:
        UserError: all answers are the same.
    """
    draw = random.Random(seed)
    everyone = range(len(answers))
    donors = []
    for answer in answers:
        others = [other for other in everyone if not same_answer(answers[other], answer)]
        if not others:
            raise UserError(f"all {len(answers)} answers are {answer}: no other problem's differs")
        donors.append(draw.choice(others))
    return donors


def choose_donors(pairs: Sequence[Pair], source: Side, seed: int) -> list[Pair | None]:
    """For each pair another one, drawn at random, whose `source` answer is unlike both of its own."""
    draw = random.Random(seed)
    donors: list[Pair | None] = []
    for pair in pairs:
        own = (pair.clean.answer, pair.corrupted.answer)
        others = [
            other
            for other in pairs
            if not any(same_answer(side_of(other, source).answer, answer) for answer in own)
        ]
        donors.append(draw.choice(others) if others else None)
    return donors
