"""Which number of a question may be changed, and to what."""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations

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
SHARED = re.compile(r"\s+(?:equal )?(?:ways|shares)\b")
"""Behind a number of shares, which are as many as those who are named or counted elsewhere."""
LISTED = re.compile(
    r"\s+(?:\w+\s+){0,2}\w+(?:\s*[:(–—]|,\s+(?:[A-Z]|one\b|named\b|both\b|including\b))"
)
"""Behind a number of things that are then named one by one."""
YEAR = re.compile(r"(?:1[6-9]|20)\d\d\Z")
REFERRING = re.compile(
    r"\b(?:the|those|these|all|other|both|remaining|last|next|first)\s+\Z", re.IGNORECASE
)
"""Before a number that repeats what was said."""
ORDINAL = re.compile(r"\b(?:first|second|third|fourth|fifth|sixth|last|1st|2nd|3rd|4th)\b")
MOST = {"hour": 24, "day": 7, "month": 12, "minute": 60, "second": 60, "week": 52}
"""Unit -> how many there are in the next larger one, which is not passed."""
CONDITION = re.compile(
    r"\b(?:at least|at most|minimum|maximum|overtime|exceed\w*|whichever|up to|"
    r"buy\b[^.?]*\bget|free|or (?:more|less|fewer|above|over)|"
    r"no (?:more|less|fewer) than|limit\w*|unless|round(?:s|ed|ing)? (?:up|down|to)|nearest|"
    r"(?:high|low|small|larg|old|young|tall|short|fast|slow|cheap|great|few|long|heavi|light)est|"
    r"(?:the|least|most) (?:most|least|expensive)|median|"
    r"(?:over|above|under|below|beyond|past) \$?\d[\d,.]*\b(?! (?:second|minute|hour|day|week|month|year))|"
    r"(?:if|when\w*|any\w*|every\w*)\b[^.]{0,50}\b(?:more|less|fewer) than \$?\d)",
    re.IGNORECASE,
)
"""Words of a question whose way to the answer may be another for other numbers."""
MOVED = re.compile(
    r"\b(?:increas|ris|rose|rais|grow|grew|improv|jump|climb|drop|decreas|reduc|lower|fell|fall|shr[aiu]nk|declin|went|go)"
    r"(?:es|ed|e|s|ing|en|n)?\b(?: (?:up|down|back))?(?: from [^.]{1,20})? to \W?\d",
    re.IGNORECASE,
)
"""A number that is said to have become another, larger or smaller one."""
PEOPLE = re.compile(
    r"\s+(?:[a-z]+ )?(?:people|persons|friends|girls|boys|children|kids|siblings|brothers|sisters|players|members|cousins|"
    r"daughters|sons|men|women|students|teachers|adults|neighbors|roommates|coworkers|colleagues|classmates|dogs|cats)\b"
)
NAMES = re.compile(r"\b[A-Z]\w+(?:, [A-Z]\w+)*,? and (?:[A-Z]\w+|her|his)\b")
"""Somebody and somebody else: those who are counted may be named."""


def conditional(question: str) -> bool:
    """Whether the way to the answer may depend on the numbers."""
    return bool(CONDITION.search(question) or MOVED.search(question))


def unused(question: str, used: Sequence[Fraction]) -> bool:
    """Whether the solution leaves out a number of the question: one from four up, or a part of one.

    Then it may follow from the others: "16 people, 10 of whom", "6, 2 adults and 4 children". A number that stands there
    in digits and in words too, or twice in words, has to be used as often: "20 cows … each of the twenty stalls".
    """
    found = mentions(question)
    lone = (mention for mention in found if not 1 <= mention.value <= 3)
    if any(set(used).isdisjoint(readings(mention)) for mention in lone):
        return True
    values = [mention.value for mention in found]
    spelled = {mention.value for mention in found if mention.in_words and mention.value > 3}
    return any(used.count(value) < values.count(value) for value in spelled)


def given_beside(
    question: str, changed: Mention
) -> tuple[frozenset[Fraction], frozenset[Fraction]]:
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
    if mention.value <= 10 and _bound(question, before, after):
        return Reason.CONSTRAINED
    return None


def _bound(question: str, before: str, after: str) -> bool:
    """Whether other words of a question say, or repeat, how many there are: no other small number would suit them."""
    named = PEOPLE.match(after) and NAMES.search(question)
    told = SHARED.match(after) or LISTED.match(after) or REFERRING.search(before)
    return bool(named or told or ORDINAL.search(question))


def ordered_as_before(
    question: str,
    mention: Mention,
    value: Fraction,
    results: Sequence[tuple[Fraction, Fraction]],
) -> bool:
    """Whether nothing outgrows what it was smaller than, so that what was a part is not more than the whole.

    Compared are the changed number with the question's others from ten up and with every result, and the results
    with each other. Fractions and percents are left out.

    Args:
        value: in the number's place.
        results: before and after.
    """
    others = [
        (other.value, other.value)
        for other in mentions(question)
        if other != mention and other.value > 10 and not other.percent
    ]
    changed = (mention.value, value)
    compared = [*((changed, one) for one in (*others, *results)), *combinations(results, 2)]
    if mention.percent:
        compared = list(combinations(results, 2))
    return all((old < than) == (new < now) or old == than for (old, new), (than, now) in compared)


def values_for(
    mention: Mention, question: str, minimal: bool = False
) -> Iterator[tuple[Fraction, str]]:
    """Other values for a number and how they are spelled, between half of it and twice, with as many digits.

    A number that ends in zeros keeps all but one, one with a point keeps what is behind it. If `minimal`, it is one
    unit more or less: 1 for 17, 10 for 300.
    """
    whole, point, rest = mention.text.replace(",", "").partition(".")
    if mention.in_words:
        whole = str(mention.value)
    number = int(whole or 0)
    zeros = len(whole) - len(whole.rstrip("0"))
    # Of numbers of many digits not each is tried.
    unit = 1 if mention.in_words or not number else 10 ** max(zeros - 1, len(whole) - 4, 0)
    steps = [-1, 1] if minimal else range(-number // unit, number // unit + 1)
    most = _most(question, mention, number)
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


def _most(question: str, mention: Mention, number: int) -> Fraction | float:
    """The most that a number may become.

    No 25 hours in a day, no more days where others share the week, and no percents that come to a hundred.
    """
    unit = _unit(question, mention)
    percents = sum(other.value for other in mentions(question) if other.percent)
    most = 99 - percents + number if mention.percent else MOST.get(unit, 0)
    shared = any(_unit(question, other) == unit for other in mentions(question) if other != mention)
    return (number if shared and unit in MOST else most) if number <= most else float("inf")


def _unit(question: str, mention: Mention) -> str:
    """The word behind a number that may be its unit, or the next: "5 school days" are of days."""
    words = re.match(r"[ -](\w+)(?: (\w+))?", question[mention.end :])
    units = [word.rstrip("s") for word in (words.groups() if words else ()) if word]
    return next((unit for unit in units if unit in MOST), "")
