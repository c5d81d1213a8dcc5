"""A changed number, followed through the annotated steps to the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from codi_lens.data.counterfactuals.arithmetic import values
from codi_lens.data.counterfactuals.numbers import disguises
from codi_lens.data.counterfactuals.reasons import Reason
from codi_lens.data.counterfactuals.solutions import Step


@dataclass(frozen=True)
class Substitution:
    """A number of the question and the one in its place, in all their readings: 20% -> 30%, 0.2 -> 0.3 …"""

    old: tuple[Fraction, ...]
    new: tuple[Fraction, ...]

    def meanings(self, literal: Fraction) -> set[Fraction]:
        """What a number of a step becomes if it is the changed number."""
        return {new for old, new in zip(self.old, self.new, strict=True) if old == literal}


@dataclass(frozen=True)
class Followed:
    """Every result with the changed number, and the step (from 0) in which that enters."""

    results: tuple[Fraction, ...]
    enters: int


def follow(
    steps: Sequence[Step],
    change: Substitution,
    stated: frozenset[Fraction],
    implied: frozenset[Fraction],
) -> Followed | Reason:
    """The results that follow from a change, or why that is not certain.

    Every number of a step is the changed number, an earlier result, or one that the rest of the question gives: in
    digits (`stated`) or in words and by its units (`implied`). One that may be two of these, of which the
    change moves one, is ambiguous.
    """
    results: list[Fraction] = []
    enters: list[int] = []
    used: set[int] = set()
    for index, step in enumerate(steps):
        earlier = list(zip(steps, results, strict=False))
        numbers: list[Fraction] = []
        for literal in step.literals:
            direct = change.meanings(literal)
            sources = {at for at, (one, _) in enumerate(earlier) if one.result == literal}
            given = {literal} if literal in stated | implied else set()
            meanings = direct | given | {results[at] for at in sources}
            if not meanings:
                return Reason.UNTRACED
            if len(meanings) > 1 or (direct and (sources or given)):
                return Reason.AMBIGUOUS
            if (
                meanings == {literal}
                and literal not in stated
                and _disguised(literal, change, earlier)
            ):
                return Reason.AMBIGUOUS
            numbers += meanings
            used |= sources
            enters += [index] * bool(direct)
        reached = _reached(step, numbers)
        if isinstance(reached, Reason):
            return reached
        results.append(reached)
    return _judged(steps, results, enters, used)


def _judged(
    steps: Sequence[Step], results: list[Fraction], enters: list[int], used: set[int]
) -> Followed | Reason:
    """What was followed, if the number is used once, every changed result is used, and the answer changes."""
    moved = [one.result != result for one, result in zip(steps, results, strict=True)]
    if len(enters) != 1:
        return Reason.USED_TWICE if enters else Reason.NOT_USED
    if not moved[-1]:
        return Reason.SAME_ANSWER
    if any(index not in used for index, one in enumerate(moved[:-1]) if one):
        return Reason.RESULT_NOT_USED
    return Followed(tuple(results), enters[0])


def _disguised(
    literal: Fraction, change: Substitution, earlier: Sequence[tuple[Step, Fraction]]
) -> bool:
    """Whether a number that only words explain may be what became of a changed one off the page."""
    moved = {change.old[0], *(one.result for one, result in earlier if one.result != result)}
    return any(literal in disguises(value) for value in moved)


def _reached(step: Step, numbers: Sequence[Fraction]) -> Fraction | Reason:
    """What a step comes to, if that is as plausible as it was: operation by operation."""
    was = values(step.expression, step.literals)
    try:
        now = values(step.expression, numbers)
    except ZeroDivisionError:
        return Reason.NEGATIVE
    for old, new in zip(was, now, strict=True):
        if old > 0 >= new:
            return Reason.NEGATIVE
        if old.denominator == 1 != new.denominator:
            return Reason.NOT_WHOLE
        if old < 1 < new:
            return Reason.IMPLAUSIBLE
        if decimals(new) > max(decimals(old), 2):
            return Reason.TOO_MANY_DECIMALS
    return now[-1]


def decimals(value: Fraction) -> float:
    """How many digits a number has behind its point; infinitely many if it does not end."""
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    return max(twos, fives) if rest == 1 else float("inf")
