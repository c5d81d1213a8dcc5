"""The numbers of a question: in digits, in words, and those that its words bring along, such as 7 with "week"."""

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

DIGITS = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?|\.\d+")
WORD = re.compile(r"[a-z]+")
# fmt: off
UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen",
    "seventeen", "eighteen", "nineteen",
)
TENS = (
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
)
ORDINALS = (
    "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth",
)
"""From 3 up; each is a part too."""
# fmt: on
MULTIPLES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6}
MEANINGS = {
    "once single another himself herself itself themselves myself": "1",
    "half halves halved halfway": "1 2 1/2",
    "twice double doubled doubles doubling couple both pair pairs twin twins trip round back parents": "2",
    "shoe shoes sock socks glove gloves bicycle bicycles weekend weekends average": "2",
    "second": "2 60",
    "seconds minute minutes": "60",
    "thrice triple tripled triples tripling triplets tricycle tricycles": "3",
    "quadruple quadrupled square": "4",
    "quarter quarters": "1 3 4 1/4 3/4 25 15",
    "weekday weekdays": "5",
    "nickel nickels": "5 1/20",
    "dime dimes": "10 1/10",
    "penny pennies": "1 1/100",
    "score": "20",
    "cent cents percent percentage": "1 100",
    "week weeks weekly": "7 52 4",
    "day days daily": "24 7",
    "month months monthly": "12 4 30",
    "january february march april may june july august september october november december": "28 30 31",
    "year years annual annually yearly": "12 52 365",
    "hour hours hourly": "60 24",
    "foot feet inch inches": "12 3",
    "yard yards": "3 36",
    "ounce ounces oz": "16",
    "pound pounds": "16 2000",
    "ton tons": "2000",
    "gallon gallons quart quarts": "4",
    "pint pints": "2 8",
    "meter meters cm centimeter centimeters mm millimeters": "10 100 1000",
    "km kilometer kilometers kg kilogram kilograms gram grams ml liter liters": "1000",
    "fortnight": "2 14",
    "decade decades": "10",
    "century": "100",
}
"""Words -> the numbers that each may bring into a solution."""


def _values() -> dict[str, frozenset[Fraction]]:
    """Word -> the numbers that it may bring into a solution."""
    found = {word: numbers for words, numbers in MEANINGS.items() for word in words.split()}
    found |= {word: str(number) for number, word in enumerate(UNITS)}
    found |= {word: str(10 * number) for number, word in enumerate(TENS, start=2)}
    for word, number in MULTIPLES.items():
        found |= {word: str(number), f"{word}s": str(number)}
    for number, word in enumerate(ORDINALS, start=3):
        found |= {word: f"1 {number} 1/{number}", f"{word}s": f"1 {number} 1/{number}"}
    return {word: frozenset(map(Fraction, numbers.split())) for word, numbers in found.items()}


VALUES = _values()
COUNTS = frozenset((*UNITS[2:], *TENS))
"""Words that are whole numbers, from two up."""


@dataclass(frozen=True)
class Mention:
    """A number in digits, or a whole one in words: where it stands in the question, and as it is spelled."""

    start: int
    text: str
    percent: bool = False

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.start + len(self.text)

    @property
    def in_words(self) -> bool:
        """Whether it is a word."""
        return self.text.isalpha()

    @property
    def value(self) -> Fraction:
        """Its value. What would be a division by zero counts as its first number."""
        if self.in_words:
            return min(VALUES[self.text.lower()])
        number, _, parts = self.text.replace(",", "").partition("/")
        return Fraction(number) / (int(parts or 1) or 1)


def mentions(question: str) -> tuple[Mention, ...]:
    """The numbers of a question: first those in digits, "3/5" as one, then the words from two up that are no part of another."""
    digits = [
        Mention(
            found.start(), found[0], bool(re.match(r"\s*(?:%|percent)", question[found.end() :]))
        )
        for found in DIGITS.finditer(question)
    ]
    words = list(re.finditer(r"[A-Za-z]+", question))
    alone = [
        Mention(word.start(), word[0])
        for before, word, after in zip([None, *words], words, [*words[1:], None], strict=False)
        if word[0].lower() in COUNTS
        and not any(beside and _numeral(beside[0]) for beside in (before, after))
    ]
    return (*digits, *alone)


def _numeral(word: str) -> bool:
    """Whether a word can be part of a number of several words."""
    stem = word.lower().rstrip("s")
    return word.lower() in (*UNITS, *TENS) or stem in (
        *MULTIPLES,
        *ORDINALS,
        "half",
        "halve",
        "quarter",
    )


def readings(mention: Mention, value: Fraction | None = None) -> tuple[Fraction, ...]:
    """What a number, or another value in its place, may be in a solution.

    20% is 20, 0.2, 0.8, 1.2, 80 and 120; 3/5 is 3/5, 2/5, 8/5, 3 and 5; any other number is itself.
    """
    value = mention.value if value is None else value
    if mention.percent:
        part = value / 100
        return (value, part, 1 - part, 1 + part, 100 - value, 100 + value)
    if "/" in mention.text:
        parts = (Fraction(part.replace(",", "")) for part in mention.text.split("/"))
        return (value, 1 - value, 1 + value, *parts)
    return (value,)


def in_words(question: str) -> frozenset[Fraction]:
    """The numbers that the question's words bring along."""
    words = WORD.findall(question.lower())
    found = {value for word in words for value in VALUES.get(word, ())}
    for one, other in pairwise(words):
        number, next_number = UNITS.index(one) if one in UNITS else None, VALUES.get(other, ())
        if one in TENS and other in UNITS[1:10]:
            found.add(Fraction(10 * (TENS.index(one) + 2) + UNITS.index(other)))
        if number is not None and (
            other in MULTIPLES or other.rstrip("s") in (*ORDINALS, "quarter")
        ):
            found |= {number * value for value in next_number}
            found |= {1 - number * value for value in next_number if value < 1}
    if "$" in question or "%" in question:
        found |= {Fraction(100), Fraction(1)}
    return frozenset(found)


def disguises(value: Fraction) -> set[Fraction]:
    """What a number may look like after a calculation that nobody wrote down."""
    found = {value / 100, value * 100, 1 - value / 100, 1 + value / 100}
    return found | ({1 / value} if value else set())
