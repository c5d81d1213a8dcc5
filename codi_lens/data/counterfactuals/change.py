"""Which number of a question may be changed, and to what."""

import re
from collections.abc import Iterator
from fractions import Fraction

from codi_lens.data.counterfactuals.numbers import (
    COUNTS,
    VALUES,
    Mention,
    in_words,
    mentions,
    readings,
)
from codi_lens.data.counterfactuals.reasons import Reason

WHOLE_TOKEN = re.compile(r"[\s($€£\"“]\Z|\A\Z")
"""What may stand before a number that is a token of its own."""
AFTER = re.compile(r"[.,;:?!)\"”]*(?:\s|\Z)|%|[-/][a-z]+\b(?!-)")
"""And behind it."""
LABEL = re.compile(
    r"(?:#|\b(?:January|February|March|April|May|June|July|August|September|October|November|December|"
    r"[Nn]umber|[Nn]o\.|[Gg]rades?|[Rr]oom|[Cc]hapter|[Pp]age|[Rr]oute|[Hh]ighway|[Ll]evel|[Ss]eason|[Cc]lass|"
    r"Year|Day|Week|Month|[Aa]t|[Uu]ntil))\s*\Z"
)
"""Before a number that names, dates or times something."""
CLOCK = re.compile(r"\s*(?:[ap]\.?m\b|o['’]clock|noon|[A-Z][a-z]+ \d{4}|(?:st|nd|rd|th)\b)")
LISTED = re.compile(r"\s+(?:\w+\s+){0,2}\w+(?:\s*[:(–—]|,\s+(?:[A-Z]|one\b|named\b|both\b|including\b))")
YEAR = re.compile(r"(?:1[6-9]|20)\d\d\Z")
"""Behind a number of things that are then named one by one."""
REFERRING = re.compile(r"\b(?:the|those|these|all|other|both|remaining|last|next|first)\s+\Z", re.IGNORECASE)
"""Before a number that repeats what was said."""
ORDINAL = re.compile(r"\b(?:first|second|third|fourth|fifth|sixth|last|1st|2nd|3rd|4th)\b")
MOST = {"hour": 24, "day": 7, "month": 12, "minute": 60, "second": 60, "week": 52}
"""Unit -> how many there are in the next larger one, which is not passed."""
CONDITION = re.compile(
    r"\b(?:at least|at most|minimum|maximum|overtime|exceed\w*|whichever|up to|or (?:more|less|fewer|above|over)|"
    r"no (?:more|less|fewer) than|limit\w*|unless|round(?:s|ed|ing)? (?:up|down|to)|nearest|"
    r"(?:high|low|small|larg|old|young|tall|short|fast|slow|cheap|great|few|long|bigg|heavi|light)est|"
    r"(?:the|least|most) (?:most|least|expensive)|best|worst|median|middle|"
    r"(?:over|above|under|below|beyond|past) \$?\d|(?:if|when\w*|any\w*|every\w*)\b[^.]{0,50}\b(?:more|less|fewer) than \$?\d)",
    re.IGNORECASE,
)
"""Words of a question whose way to the answer may be another for other numbers."""


def conditional(question: str) -> bool:
    """Whether the way to the answer may depend on the numbers."""
    return CONDITION.search(question) is not None


def unused(question: str, used: set[Fraction]) -> bool:
    """Whether a number of the question, from two up in digits or from four up in words, is not in the solution.

    Then it may follow from the others: "16 people, 10 of whom", "6, 2 adults and 4 children".
    """
    return any(
        used.isdisjoint(readings(mention))
        for mention in mentions(question)
        if mention.value > (3 if mention.in_words else 1) or mention.value < 1
    )


def given_beside(question: str, changed: Mention) -> tuple[frozenset[Fraction], frozenset[Fraction]]:
    """The numbers that the question gives beside the changed one: those that it states, and those that its words imply."""
    rest = f"{question[: changed.start]}…{question[changed.end :]}"
    stated = {value for mention in mentions(rest) for value in readings(mention)}
    return frozenset(stated), in_words(rest)


def refusal(question: str, mention: Mention) -> Reason | None:
    """Why this number is not changed; None if it may be."""
    before, after = question[: mention.start], question[mention.end :]
    stands_alone = WHOLE_TOKEN.search(before) and AFTER.match(after) and "/" not in mention.text
    year = YEAR.match(mention.text) and not before.endswith("$")
    if not stands_alone or year or mention.value < 2 or CLOCK.match(after) or LABEL.search(before):
        return Reason.NO_NUMBER
    if any(mention.value in given for given in given_beside(question, mention)):
        return Reason.TWICE_IN_QUESTION
    few = mention.value <= 10
    if few and (LISTED.match(after) or ORDINAL.search(question) or REFERRING.search(before)):
        return Reason.CONSTRAINED
    return None


def values_for(mention: Mention, question: str, minimal: bool = False) -> Iterator[tuple[Fraction, str]]:
    """Other values for a number and how they are spelled, between half of it and twice, with as many digits.

    A number that ends in zeros keeps them, one with a point what is behind the point. If `minimal`, only one
    unit, so 1 for 17, more or less.
    """
    whole, point, rest = mention.text.replace(",", "").partition(".")
    if mention.in_words:
        whole = str(mention.value)
    number = int(whole or 0)
    unit = 10 ** (len(whole) - len(whole.rstrip("0"))) if number and not mention.in_words else 1
    steps = [-1, 1] if minimal else range(-number // unit, number // unit + 1)
    most = _most(question[mention.end :], mention.percent, number)
    for new in (number + step * unit for step in steps if step):
        if not (2 * new >= number and 2 <= new <= most):
            continue
        text = _spelled(new, mention, point + rest)
        if text and (mention.in_words or len(text) == len(mention.text)):
            yield Fraction(f"{new}{point}{rest}"), text


def _spelled(number: int, mention: Mention, rest: str) -> str | None:
    """A number as another one is spelled; None for one that has no single word."""
    if not mention.in_words:
        return f"{number:,}{rest}" if "," in mention.text else f"{number}{rest}"
    words = [word for word in COUNTS if number in VALUES[word]]
    return next((word.capitalize() if mention.text[0].isupper() else word for word in words), None)


def _most(after: str, percent: bool, number: int) -> float:
    """The most that a number may become: no 25 hours in a day."""
    unit = re.match(r"\s+(?:\w+\s+)?([a-z]+?)s?\b", after)
    most = 99 if percent else MOST.get(unit[1], 0) if unit else 0
    return most if number <= most else float("inf")
