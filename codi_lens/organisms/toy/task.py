"""Arithmetic word problems of two or three steps: the task of the embedded model.

Every problem has three operands `a`, `b`, `c`, is solved one operation at a time, and belongs to one of
eight kinds. The two `team` kinds follow the templates that earlier studies of CODI used (three steps:
`s = a ± b`, `m = s·c`, answer `s + m`); the other six chain two operations.

Three properties make the problems fit for activation patching:

* A *wording* (a phrasing with its name and nouns filled in) is chosen apart from the numbers, and each
  number occurs once. Two problems of one wording therefore align token by token, and differ in exactly
  one token for each operand that differs.
* Numbers stay small (every value on the way is in 1..60), so that a small model can learn the task.
* The split is by *(kind, number triple)*: a held-out triple never occurs in training, in any
  wording, so the model has to compute its answer and cannot recall it.

Nothing here touches global random state: each sampler takes a `random.Random`.
"""

import functools
import itertools
import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

Operands = tuple[int, int, int]

OPERAND_NAMES: Final = ("a", "b", "c")
VALUE_RANGE: Final = range(1, 61)
"""Where every intermediate result and every answer lies."""

HELDOUT_FRACTION: Final = 0.125
_SPLIT_SEED: Final = 20240229

_Step = tuple[int, str, int, int]  # left operand, operator, right operand, result


@dataclass(frozen=True)
class Wording:
    """Everything of a question but its numbers."""

    phrasing: int
    """Index into the kind's phrasings."""
    fillers: tuple[tuple[str, str], ...]
    """(slot, word) for each slot of the phrasing, e.g. `("name", "Mia")`."""


@dataclass(frozen=True)
class Problem:
    """One word problem and its solution."""

    kind: str
    operands: Operands
    intermediates: tuple[int, int]
    """Results of the first two steps; in a two-step kind the second one is the answer."""
    answer: int
    question: str
    cot: tuple[str, ...]
    """The written-out steps, e.g. `("<<3+5=8>>", "<<8*2=16>>", "<<8+16=24>>")`."""


def _add(left: int, right: int) -> _Step:
    return left, "+", right, left + right


def _sub(left: int, right: int) -> _Step:
    return left, "-", right, left - right


def _mul(left: int, right: int) -> _Step:
    return left, "*", right, left * right


_Operation = Callable[[int, int], _Step]

# First and second operation of each kind: step1 = first(a, b), step2 = second(step1, c).
_OPERATIONS: Final[dict[str, tuple[_Operation, _Operation]]] = {
    "team_add": (_add, _mul),
    "team_sub": (_sub, _mul),
    "mul_sub": (_mul, _sub),
    "mul_add": (_mul, _add),
    "add_mul": (_add, _mul),
    "sub_mul": (_sub, _mul),
    "add_sub": (_add, _sub),
    "sub_add": (_sub, _add),
}
KINDS: Final = tuple(_OPERATIONS)


def ranges(kind: str) -> tuple[range, range, range]:
    """Where a, b and c of a kind lie; the results narrow them further (see `triples`).

    Factors stay small, since products soon leave the value range. Terms may be larger: products are sparse,
    and sums and differences of every size teach the numbers between them.
    """
    first, second = _OPERATIONS[kind]
    a = range(2, 31) if _mul not in (first, second) else range(2, 16)
    c = range(2, 7) if second is _mul else range(2, 11)  # c = 1 would leave a team problem one step
    return a, range(2, 11), c


_FILLERS: Final[dict[str, tuple[str, ...]]] = {
    "name": ("Ana", "Ben", "Eva", "Leo", "Mia", "Tom", "Zoe", "Max"),
    "group": ("team", "club", "choir", "band", "crew"),
    "items": ("apples", "books", "cards", "pens", "shells", "stamps"),
    "boxes": ("boxes", "bags", "jars", "crates"),
    "days": ("days", "weeks", "months"),
}

_PHRASINGS: Final[dict[str, tuple[str, ...]]] = {
    "team_add": (
        "A {group} starts with {a} members. They recruit {b} new members. Then each current member "
        "recruits {c} additional people. How many people are there now?",
        "{name} runs a {group} of {a} people. Then {b} more people join. Later every person brings "
        "{c} friends who stay. How many people are in the {group} now?",
        "There are {a} people in a {group} and {b} others sign up. After that each one invites {c} "
        "newcomers. How big is the {group} that {name} leads?",
        "{name} founds a {group} with {a} members and welcomes {b} more. Then all of them add {c} "
        "people each. How many members does the {group} have?",
    ),
    "team_sub": (
        "A {group} starts with {a} members. Then {b} members leave. Then each remaining member "
        "recruits {c} additional people. How many people are there now?",
        "{name} runs a {group} of {a} people. Then {b} people quit. Later every person left brings "
        "{c} friends who stay. How many people are in the {group} now?",
        "There are {a} people in a {group} but {b} drop out. After that each one left invites {c} "
        "newcomers. How big is the {group} that {name} leads?",
        "{name} founds a {group} with {a} members and loses {b} soon. Then all the others add {c} "
        "people each. How many members does the {group} have?",
    ),
    "mul_sub": (
        "{name} buys {a} {boxes} with {b} {items} each. Then {c} {items} get lost. How many {items} "
        "are left?",
        "There are {a} {boxes} and each holds {b} {items}. {name} takes {c} {items} away. How many "
        "{items} remain?",
        "{name} fills {a} {boxes} with {b} {items} in each one. Later {name} sells {c} of the "
        "{items}. How many {items} does {name} still have?",
        "For {a} {days} {name} collects {b} {items} each time. Then {name} gives {c} to a friend. "
        "How many {items} does {name} keep?",
    ),
    "mul_add": (
        "{name} buys {a} {boxes} with {b} {items} each. Then {c} more {items} are found. How many "
        "{items} are there in total?",
        "There are {a} {boxes} and each holds {b} {items}. {name} brings {c} extra {items}. How many "
        "{items} is that altogether?",
        "{name} fills {a} {boxes} with {b} {items} in each one. Later {name} gets {c} more {items}. "
        "How many {items} does {name} have now?",
        "For {a} {days} {name} collects {b} {items} each time. Then a friend adds {c} to them. How "
        "many {items} does {name} own?",
    ),
    "add_mul": (
        "{name} has {a} {items} and buys {b} more. Each of the {items} costs {c} coins. How many "
        "coins are they worth?",
        "A shelf holds {a} {items} and {b} more are put on it. {name} needs {c} such shelves. How "
        "many {items} is that altogether?",
        "Every day {name} packs {a} {items} at home and {b} at work. This goes on for {c} {days}. "
        "How many {items} are packed in total?",
        "{name} makes a pile of {a} {items} and adds {b} to it. Then {name} makes the pile {c} times "
        "as big. How many {items} are in the pile?",
    ),
    "sub_mul": (
        "{name} has {a} {items} but gives {b} away. Each of the {items} left costs {c} coins. How "
        "many coins are they worth?",
        "A shelf holds {a} {items} but {b} are taken off it. {name} has {c} such shelves. How many "
        "{items} is that altogether?",
        "Every day {name} packs {a} {items} and loses {b} of them. This goes on for {c} {days}. How "
        "many {items} are there in total?",
        "{name} makes a pile of {a} {items} and takes {b} from it. Then {name} makes the pile {c} "
        "times as big. How many {items} are in the pile?",
    ),
    "add_sub": (
        "{name} has {a} {items} and gets {b} more. Then {c} of the {items} break. How many {items} "
        "are left?",
        "There are {a} {items} on a table and {b} under it. {name} takes {c} {items} away. How many "
        "{items} remain?",
        "In the morning {name} finds {a} {items} and at noon {b} more. At night {name} drops {c} of "
        "them. How many {items} does {name} still have?",
        "A jar holds {a} {items} when {name} puts {b} in. Then a friend takes {c} out. How many "
        "{items} are in the jar now?",
    ),
    "sub_add": (
        "{name} has {a} {items} and loses {b} of them. Then {c} more {items} are found. How many "
        "{items} are there in total?",
        "There are {a} {items} on a table but {b} fall off. {name} brings {c} extra {items}. How "
        "many {items} are on the table now?",
        "In the morning {name} finds {a} {items} and at noon drops {b}. At night {name} gets {c} "
        "more. How many {items} does {name} have now?",
        "A jar holds {a} {items} when {name} takes {b} out. Then a friend puts {c} in. How many "
        "{items} are in the jar now?",
    ),
}


def _steps(kind: str, operands: Operands) -> tuple[_Step, ...]:
    """The operations of a problem, in order; the last one gives the answer."""
    a, b, c = operands
    first, second = _OPERATIONS[kind]
    step1 = first(a, b)
    step2 = second(step1[-1], c)
    if not kind.startswith("team_"):
        return step1, step2
    return step1, step2, _add(step1[-1], step2[-1])


def n_phrasings(kind: str) -> int:
    """How many ways there are to phrase a problem of this kind."""
    return len(_PHRASINGS[kind])


def _slots(kind: str, phrasing: int) -> tuple[str, ...]:
    """Names and nouns that a phrasing asks for, sorted; its operands are not among them."""
    fields = {field for _, field, _, _ in string.Formatter().parse(_PHRASINGS[kind][phrasing])}
    return tuple(sorted(field for field in fields if field and field not in OPERAND_NAMES))


def wordings(kind: str) -> list[Wording]:
    """Every wording of a kind, in a fixed order."""
    found = []
    for phrasing in range(n_phrasings(kind)):
        slots = _slots(kind, phrasing)
        for words in itertools.product(*(_FILLERS[slot] for slot in slots)):
            found.append(Wording(phrasing, tuple(zip(slots, words, strict=True))))
    return found


def draw_wording(kind: str, rng: random.Random) -> Wording:
    """A random wording: each phrasing is equally likely, however many names it has room for."""
    phrasing = rng.randrange(n_phrasings(kind))
    slots = _slots(kind, phrasing)
    return Wording(phrasing, tuple((slot, rng.choice(_FILLERS[slot])) for slot in slots))


def make_problem(kind: str, operands: Operands, wording: Wording) -> Problem:
    """The problem with these numbers in this wording."""
    if operands not in triples(kind):
        a_range, b_range, c_range = ranges(kind)
        raise ValueError(
            f"{operands} is no triple of {kind}: a is in {a_range}, b in {b_range}, c in {c_range}, "
            f"and every intermediate result and the answer in {VALUE_RANGE}"
        )
    a, b, c = operands
    steps = _steps(kind, operands)
    return Problem(
        kind=kind,
        operands=operands,
        intermediates=(steps[0][-1], steps[1][-1]),
        answer=steps[-1][-1],
        question=_PHRASINGS[kind][wording.phrasing].format(a=a, b=b, c=c, **dict(wording.fillers)),
        cot=tuple(f"<<{left}{sign}{right}={result}>>" for left, sign, right, result in steps),
    )


@functools.cache
def triples(kind: str) -> frozenset[Operands]:
    """Every admissible (a, b, c) of a kind."""
    return frozenset(
        operands
        for operands in itertools.product(*ranges(kind))
        if all(step[-1] in VALUE_RANGE for step in _steps(kind, operands))
    )


@functools.cache
def heldout_triples(kind: str) -> tuple[Operands, ...]:
    """Triples of a kind that training never sees, sorted; the same ones on every machine."""
    ordered = sorted(triples(kind))
    rng = random.Random(f"{_SPLIT_SEED}/{kind}")  # strings seed through a hash that is stable
    return tuple(sorted(rng.sample(ordered, round(HELDOUT_FRACTION * len(ordered)))))


@functools.cache
def train_triples(kind: str) -> tuple[Operands, ...]:
    """Triples of a kind that training draws from, sorted."""
    return tuple(sorted(triples(kind) - set(heldout_triples(kind))))


def sample_training(rng: random.Random, weights: dict[str, float] | None = None) -> Problem:
    """A training problem; `weights` (default: equal) says how often each kind is drawn."""
    weight = [1.0 if weights is None else weights[kind] for kind in KINDS]
    kind = rng.choices(KINDS, weight)[0]
    return make_problem(kind, rng.choice(train_triples(kind)), draw_wording(kind, rng))


def heldout_problems(seed: int, per_kind: int = 100) -> list[Problem]:
    """Held-out problems, equally many of each kind, each in a random wording.

    A kind with fewer held-out triples than that repeats each of them several times.
    """
    rng = random.Random(seed)
    problems: list[Problem] = []
    for kind in KINDS:
        shuffled = rng.sample(heldout_triples(kind), len(heldout_triples(kind)))
        for triple in itertools.islice(itertools.cycle(shuffled), per_kind):
            problems.append(make_problem(kind, triple, draw_wording(kind, rng)))
    return problems
