"""Pairs from problems with annotated solutions: one number of the question is changed, and followed to the answer.

A problem is an entry of GSM8K (`question`, and `answer` with <<16-3-4=9>> and "#### 18" in it) or of GSM8K-Aug, whose
solutions have nothing but the annotations. There, a calculation that nobody annotated cannot be seen: of the same
problem, GSM8K's own text is the safer source.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from codi_lens.data.answers import Answer, as_stored
from codi_lens.data.changes import Change
from codi_lens.data.counterfactuals.change import (
    conditional,
    given_beside,
    ordered_as_before,
    refusal,
    unused,
    values_for,
)
from codi_lens.data.counterfactuals.follow import Followed, Substitution, follow
from codi_lens.data.counterfactuals.made import Fit, Made, Refused
from codi_lens.data.counterfactuals.numbers import Mention, mentions, readings
from codi_lens.data.counterfactuals.reasons import Reason, furthest
from codi_lens.data.counterfactuals.solutions import Step, read_solution
from codi_lens.data.pairs import Pair, Variant


def gsm8k_pairs(
    problems: Sequence[Any],
    *,
    changes: int = 1,
    minimal: bool = False,
    seed: int = 0,
    fit: Fit | None = None,
) -> Made:
    """Pairs from problems of GSM8K or GSM8K-Aug, and why others give none.

    Args:
        problems: entries with `question` and `answer`; GSM8K-Aug's from the hub have `steps` too.
        changes: pairs per problem, at most. Pair ids are the problem's index, times `changes` plus a count if that
            is more than one.
        minimal: change a number by one unit only: 17 to 16 or 18, 300 to 290 or 310.
        seed: of what is drawn, in each problem for itself.
        fit: what the pairs must be to a tokenizer.
    """
    pairs: list[Pair] = []
    refused: list[Refused] = []
    for index, problem in enumerate(problems):
        found = _pairs_of(problem, index, changes, minimal, random.Random(f"{seed} {index}"), fit)
        if isinstance(found, Reason):
            refused.append(Refused(index, found))
        else:
            pairs += found
    return Made(tuple(pairs), tuple(refused))


def _pairs_of(
    problem: Any, index: int, changes: int, minimal: bool, rng: random.Random, fit: Fit | None
) -> list[Pair] | Reason:
    question, solution = _texts(problem)
    steps = read_solution(solution, question)
    if isinstance(steps, Reason):
        return steps
    if conditional(question):
        return Reason.CONDITION
    if unused(question, [literal for step in steps for literal in step.literals]):
        return Reason.UNUSED_NUMBER
    pairs: list[Pair] = []
    reasons = [Reason.NO_NUMBER]
    for found in _tried(question, steps, minimal, rng):
        if isinstance(found, Reason):
            reasons.append(found)
            continue
        pair = _pair(index * changes + len(pairs), question, steps, *found)
        if why := fit and fit.misfit(pair):
            reasons.append(why)
            continue
        pairs.append(pair)
        if len(pairs) == changes:
            break
    return pairs or furthest(reasons)


def _texts(problem: Any) -> tuple[str, str]:
    """Question and solution of an entry; what lacks them has no annotations."""
    fields = problem if isinstance(problem, Mapping) else {}
    question, answer, steps = (fields.get(name) for name in ("question", "answer", "steps"))
    if isinstance(steps, Sequence) and not isinstance(steps, str):
        answer = f"{' '.join(map(str, steps))} #### {answer}"
    return str(question), str(answer)


def _tried(
    question: str, steps: Sequence[Step], minimal: bool, rng: random.Random
) -> Iterator[tuple[Mention, str, Followed] | Reason]:
    """Changes in random order, each number's first, then each number's second …; or why there is none."""
    waiting = list(mentions(question))
    rng.shuffle(waiting)
    turns = [_of_number(question, steps, mention, minimal, rng) for mention in waiting]
    while turns:
        for turn in tuple(turns):
            for found in turn:
                yield found
                if not isinstance(found, Reason):
                    break
            else:
                turns.remove(turn)


def _of_number(
    question: str, steps: Sequence[Step], mention: Mention, minimal: bool, rng: random.Random
) -> Iterator[tuple[Mention, str, Followed] | Reason]:
    """What changes of one number lead to, in random order."""
    if why := refusal(question, mention):
        yield why
        return
    stated, implied = given_beside(question, mention)
    others = list(values_for(mention, question, minimal))
    rng.shuffle(others)
    if not others:
        yield Reason.NO_CHANGE
    for value, text in others:
        change = Substitution(readings(mention), readings(mention, value))
        followed = follow(steps, change, stated, implied)
        if isinstance(followed, Reason):
            yield followed
            continue
        results = [(step.result, now) for step, now in zip(steps, followed.results, strict=True)]
        ordered = ordered_as_before(question, mention, value, results)
        yield (mention, text, followed) if ordered else Reason.IMPLAUSIBLE


def _pair(
    pair_id: int,
    question: str,
    steps: Sequence[Step],
    mention: Mention,
    text: str,
    followed: Followed,
) -> Pair:
    corrupted = f"{question[: mention.start]}{text}{question[mention.end :]}"
    enters = followed.enters + 1
    return Pair(
        pair_id,
        _variant(question, [step.result for step in steps]),
        _variant(corrupted, followed.results),
        kind=f"{len(steps)} step{'s' * (len(steps) > 1)}",
        operand=f"enters at step {enters}",
        change=Change(mention.text, text, (mention.start,), len(steps), enters),
    )


def _variant(question: str, results: Sequence[Fraction]) -> Variant:
    """A question with its answer, the last result, and those before it."""
    *before, answer = map(_as_answer, results)
    return Variant(question, answer, intermediates=tuple(before))


def _as_answer(value: Fraction) -> Answer:
    return as_stored(value.numerator if value.denominator == 1 else float(value))
