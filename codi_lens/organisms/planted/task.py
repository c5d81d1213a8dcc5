"""Problems whose every result on the way is known: what planted mechanisms compute.

A problem has numbers and operations. `Task.values` gives all results v_1 … v_n, the last of which is the answer, and takes
results that are set from outside: what the answer *would* be if v_j were another problem's is what an interchange of v_j
must produce. Every task has two wordings, in symbols and in words. All problems of a wording have as many tokens, so that
whatever is exchanged between two of them stands at the same position.

Problems are held out by a checksum of themselves: training never sees them in either wording.
"""

import random
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

WORDINGS = ("symbols", "words")
HELDOUT_SHARE = 8
"""One problem in so many is held out."""

SPOKEN = {"+": "plus", "-": "minus"}
OPERATIONS = tuple(SPOKEN)
"""Modulo 10 neither loses anything, so another number on either side always gives another result."""


@dataclass(frozen=True)
class Problem:
    """Numbers and operations, and how they are worded."""

    numbers: tuple[int, ...]
    operations: tuple[str, ...]
    wording: str
    question: str
    values: tuple[int, ...]
    """v_1 … v_n."""
    cot: tuple[str, ...] = ()
    """Nothing is ever written out."""

    @property
    def answer(self) -> int:
        """v_n."""
        return self.values[-1]


class Task(ABC):
    """What is asked. Results are numbers below `modulus`."""

    modulus: ClassVar[int] = 10
    operands: tuple[str, ...]
    """What each number is called; pairs differ in one of them."""
    variables: tuple[str, ...]
    """What v_1 … v_n are called."""

    @abstractmethod
    def draw(self, rng: random.Random) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Numbers and operations of a random problem."""

    @abstractmethod
    def values(
        self, numbers: Sequence[int], operations: Sequence[str], given: Mapping[int, int]
    ) -> tuple[int, ...]:
        """v_1 … v_n, where those in `given` (by index from 0) are what they are set to."""

    @abstractmethod
    def text(self, numbers: Sequence[int], operations: Sequence[str], wording: str) -> str:
        """The question."""

    def choices(self, problem: Problem, operand: int) -> list[int]:
        """What else this operand could be, the rest unchanged, with another answer."""
        found = []
        for number in range(10):
            numbers = list(problem.numbers)
            numbers[operand] = number
            if self.values(numbers, problem.operations, {})[-1] != problem.answer:
                found.append(number)
        return found

    def make(self, numbers: Sequence[int], operations: Sequence[str], wording: str) -> Problem:
        """The problem of these numbers and operations."""
        text = self.text(numbers, operations, wording)
        values = self.values(numbers, operations, {})
        return Problem(tuple(numbers), tuple(operations), wording, text, values)

    def sample(
        self, rng: random.Random, count: int, wording: str, *, heldout: bool
    ) -> list[Problem]:
        """Random problems of one wording, of the held-out ones or of the others."""
        found: list[Problem] = []
        while len(found) < count:
            numbers, operations = self.draw(rng)
            if is_heldout(numbers, operations) == heldout:
                found.append(self.make(numbers, operations, wording))
        return found

    def counterfactual(self, problem: Problem, given: Mapping[int, int]) -> tuple[int, ...]:
        """The results, if some of them were set from outside."""
        return self.values(problem.numbers, problem.operations, given)


def is_heldout(numbers: Sequence[int], operations: Sequence[str]) -> bool:
    """Whether training never sees this problem; the same on every machine."""
    text = " ".join([*map(str, numbers), *operations])
    return zlib.crc32(text.encode()) % HELDOUT_SHARE == 0


def calculate(left: int, operation: str, right: int, modulus: int) -> int:
    """left operation right, modulo `modulus`."""
    return (left + right if operation == "+" else left - right) % modulus


class Chain(Task):
    """x0, then H operations modulo 10: v_k = v_{k-1} op_k b_k."""

    def __init__(self, hops: int) -> None:
        self.hops = hops
        self.operands = ("x0", *(f"b{k}" for k in range(1, hops + 1)))
        self.variables = tuple(f"v{k}" for k in range(1, hops + 1))

    def draw(self, rng: random.Random) -> tuple[tuple[int, ...], tuple[str, ...]]:
        numbers = tuple(rng.randrange(10) for _ in self.operands)
        return numbers, tuple(rng.choice(OPERATIONS) for _ in range(self.hops))

    def values(
        self, numbers: Sequence[int], operations: Sequence[str], given: Mapping[int, int]
    ) -> tuple[int, ...]:
        last, results = numbers[0], []
        for k, (operation, number) in enumerate(zip(operations, numbers[1:], strict=True)):
            last = given.get(k, calculate(last, operation, number, self.modulus))
            results.append(last)
        return tuple(results)

    def text(self, numbers: Sequence[int], operations: Sequence[str], wording: str) -> str:
        steps = list(zip(operations, numbers[1:], strict=True))
        if wording == "symbols":
            return " ".join([str(numbers[0]), *(f"{op} {b}" for op, b in steps)])
        return ", ".join([f"Start with {numbers[0]}", *(f"{SPOKEN[op]} {b}" for op, b in steps)])


class Tree(Task):
    """(a op b) ± (c op d) modulo 10: v_1 and v_2 are the brackets, v_3 is the answer."""

    operands = ("a", "b", "c", "d")
    variables = ("v1", "v2", "v3")

    def draw(self, rng: random.Random) -> tuple[tuple[int, ...], tuple[str, ...]]:
        numbers = tuple(rng.randrange(10) for _ in self.operands)
        return numbers, tuple(rng.choice(OPERATIONS) for _ in range(3))

    def values(
        self, numbers: Sequence[int], operations: Sequence[str], given: Mapping[int, int]
    ) -> tuple[int, ...]:
        a, b, c, d = numbers
        left, between, right = operations
        one = given.get(0, calculate(a, left, b, self.modulus))
        two = given.get(1, calculate(c, right, d, self.modulus))
        return one, two, given.get(2, calculate(one, between, two, self.modulus))

    def text(self, numbers: Sequence[int], operations: Sequence[str], wording: str) -> str:
        a, b, c, d = numbers
        left, between, right = operations
        if wording == "symbols":
            return f"({a} {left} {b}) {between} ({c} {right} {d})"
        spoken = f"{a} {SPOKEN[left]} {b}, {SPOKEN[between]} {c} {SPOKEN[right]} {d}"
        return f"Brackets first: {spoken}"


class Lookup(Task):
    """A place (x0 ± b1 modulo 6) in a list of six digits: v_1 is the place, counted from 0, v_2 the digit there.

    The pairs of this task differ in the digit, and not in the place.
    """

    modulus = 6
    operands = ("x0", "b1", *(f"entry {i}" for i in range(6)))
    variables = ("v1", "v2")

    def draw(self, rng: random.Random) -> tuple[tuple[int, ...], tuple[str, ...]]:
        listed = (rng.randrange(10) for _ in range(self.modulus))
        return (rng.randrange(6), rng.randrange(6), *listed), (rng.choice(OPERATIONS),)

    def values(
        self, numbers: Sequence[int], operations: Sequence[str], given: Mapping[int, int]
    ) -> tuple[int, ...]:
        place = given.get(0, calculate(numbers[0], operations[0], numbers[1], self.modulus))
        return place, given.get(1, numbers[2 + place])

    def text(self, numbers: Sequence[int], operations: Sequence[str], wording: str) -> str:
        listed = " ".join(map(str, numbers[2:]))
        operation = operations[0]
        if wording == "symbols":
            return f"{numbers[0]} {operation} {numbers[1]} in {listed}"
        return f"Entry {numbers[0]} {SPOKEN[operation]} {numbers[1]} of the list {listed}"

    def choices(self, problem: Problem, operand: int) -> list[int]:
        place = problem.values[0]
        return super().choices(problem, operand) if operand == 2 + place else []
