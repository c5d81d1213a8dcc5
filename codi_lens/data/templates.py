"""Counterfactual pairs for LLaMA-scale models: two-step word problems, one operand changed.

Every problem has three operands and two steps, in the manner of the "A team starts with X
members" templates of Cywiński et al. (`cywinski/codi`)::

    step1 = x + y  ("add")  or  x - y  ("sub")        x, y in 1..8, x > y for "sub"
    step2 = step1 * z                                 z in 2..8, so that step2 is not step1
    answer = step1 + step2

The phrasings are our own. They are worded so that no noun has to agree with x or y ("falls by 1"). So the two
questions of a pair differ in one digit only, and their tokens align position by position under any tokenizer
that splits digits from letters. If a tokenizer is given, this is checked. Each variant stores its operands (x,
y, z) and its intermediates (step1, step2), so that one can ask which of them a latent thought holds.
"""

import random
from collections.abc import Iterator
from itertools import permutations, product, zip_longest
from typing import TypeAlias

from codi_lens.data.answers import Tokenizer, answer_tokens
from codi_lens.data.pairs import Pair, Variant
from codi_lens.errors import UserError

ADDITIONS = (
    "A team starts with a headcount of {x}. Recruiting raises the headcount by {y}. Then every "
    "member signs up {z} friends. How many people are in the team now?",
    "The rabbit count on a farm is {x}. In spring it grows by {y}. In summer each rabbit has {z} "
    "kits. How many rabbits, old and young, live on the farm then?",
    "Nora's stamp total is {x}, and her uncle's gift adds {y} to it. For each of those stamps she "
    "then buys {z} more. What is her stamp total in the end?",
    "A choir's size is {x} on Monday and goes up by {y} on Tuesday. On Wednesday every singer "
    "brings along {z} cousins who also join. How large is the choir now?",
    "The number of ships in a harbour is {x}. It rises by {y} before noon. After noon each ship "
    "there is followed in by {z} boats. How many vessels are in the harbour?",
    "At dawn the tally of open roses in a garden is {x}; by midday the tally is up by {y}. By "
    "evening {z} further roses have opened for each of those. How many roses are open?",
    "Omar's score is {x} after round one. Round two adds {y} to his score. Round three gives him "
    "{z} points for every point he has so far, on top of them. What is his final score?",
    "A library shelf holds a stock of {x}. A delivery increases the stock by {y}. Then, for each "
    "book on the shelf, {z} copies are put next to it. How many books and copies are there?",
    "The guest list of a party has length {x}. Ida makes it longer by {y}. Each person on the list "
    "comes with {z} companions. How many people come to the party?",
    "A herd numbers {x}. Its size goes up by {y} when strays wander in. Later every animal of the "
    "herd is joined by {z} newcomers. How many animals does the herd have?",
    "The coin count in Lena's jar is {x}, then it climbs by {y}. Her father drops in {z} extra "
    "coins for each coin that is there. How many coins does the jar hold?",
    "A workshop's output is {x} before lunch and {y} after lunch. Overnight a machine makes {z} "
    "pieces for every piece made by day. How many pieces have been made altogether?",
)

SUBTRACTIONS = (
    "A team starts with a headcount of {x}. Injuries lower the headcount by {y}. Then every member "
    "still playing signs up {z} friends. How many people are in the team now?",
    "The duck count on a pond is {x}. In autumn it drops by {y}. In spring each duck that is left "
    "hatches {z} chicks. How many birds, old and young, are on the pond then?",
    "Pavel's marble total is {x}, and a lost game takes {y} off it. For each marble left he then "
    "wins {z} more. What is his marble total in the end?",
    "A band's size is {x} in May and goes down by {y} in June. In July every player still there "
    "brings along {z} students who also join. How large is the band now?",
    "The number of buses in a depot is {x}. It falls by {y} before noon. After noon each bus still "
    "there is followed in by {z} vans. How many vehicles are in the depot?",
    "At noon the tally of lit lamps in a hall is {x}; by dusk the tally is down by {y}. At night "
    "{z} further lamps are lit for each of those still burning. How many lamps are lit?",
    "Mina's score is {x} after round one. Round two takes {y} from her score. Round three gives "
    "her {z} points for every point she has left, on top of them. What is her final score?",
    "A bakery counter holds a stock of {x}. Morning sales cut the stock by {y}. Then, for each "
    "loaf left, {z} rolls are put next to it. How many loaves and rolls are on the counter?",
    "The guest list of a wedding has length {x}. Hugo makes it shorter by {y}. Each person still "
    "on the list comes with {z} companions. How many people come to the wedding?",
    "A flock numbers {x}. Its size goes down by {y} when foxes come. Later every bird of the flock "
    "that is left is joined by {z} newcomers. How many birds does the flock have?",
    "The apple count in Tim's basket is {x}, then it shrinks by {y}. His aunt puts in {z} extra "
    "apples for each apple that is left. How many apples does the basket hold?",
    "A printer's tray has a load of {x}, and a jam reduces the load by {y}. For every sheet left "
    "in the tray, {z} sheets are added to it. How many sheets are in the tray?",
)

PHRASINGS = {"add": ADDITIONS, "sub": SUBTRACTIONS}
OPERANDS = ("x", "y", "z")
Operands: TypeAlias = tuple[int, int, int]
Candidate: TypeAlias = tuple[str, str, str, Operands, Operands]


def generate_pairs(
    n: int, seed: int, tokenizer: Tokenizer | None = None, stem: str = "The answer is: "
) -> list[Pair]:
    """`n` different pairs, the same ones for the same seed, with ids 0..n-1.

    Kinds, phrasings and changed operands take turns, so that any prefix of the list is as balanced as its
    length allows. The answers of a pair differ and have at most three digits, so
    under a tokenizer that takes three digits as one token their first tokens differ. With a
    `tokenizer`, only pairs are given for which that holds under `stem`, and whose questions have
    as many tokens and differ in exactly one.

    Raises UserError when there are not that many pairs (there are 140,448).
    """
    if n < 1:
        raise UserError(f"{n} pairs were asked for; give a number from 1 up")
    pairs: list[Pair] = []
    for kind, phrasing, operand, clean, corrupted in _candidates(random.Random(seed)):
        pair = Pair(
            len(pairs),
            _variant(kind, phrasing, clean),
            _variant(kind, phrasing, corrupted),
            kind=kind,
            operand=operand,
        )
        if tokenizer is None or _is_aligned(tokenizer, stem, pair):
            pairs.append(pair)
        if len(pairs) == n:
            return pairs
    raise UserError(f"{n} pairs were asked for, only {len(pairs)} can be made; ask for fewer")


def _candidates(rng: random.Random) -> Iterator[Candidate]:
    """Every (kind, phrasing, operand, clean, corrupted), the first three taking turns."""
    changes = {(kind, name): _changes(kind, name) for kind in PHRASINGS for name in OPERANDS}
    strata = [(kind, text, name) for kind, name in changes for text in PHRASINGS[kind]]
    rng.shuffle(strata)
    shuffled = [rng.sample(found := changes[kind, name], len(found)) for kind, _, name in strata]
    for turn in zip_longest(*shuffled):
        for stratum, change in zip(strata, turn, strict=True):
            if change is not None:
                yield (*stratum, *change)


def _changes(kind: str, operand: str) -> list[tuple[Operands, Operands]]:
    """All choices of clean and corrupted operands that differ in the one named."""
    at = OPERANDS.index(operand)
    valid = [
        (x, y, z)
        for x, y, z in product(range(1, 9), range(1, 9), range(2, 9))
        if kind == "add" or x > y
    ]
    others: dict[tuple[int, ...], list[Operands]] = {}
    for operands in valid:
        others.setdefault(operands[:at] + operands[at + 1 :], []).append(operands)
    return [change for alike in others.values() for change in permutations(alike, 2)]


def _variant(kind: str, phrasing: str, operands: Operands) -> Variant:
    x, y, z = operands
    step1 = x + y if kind == "add" else x - y
    step2 = step1 * z
    question = phrasing.format(x=x, y=y, z=z)
    return Variant(question, step1 + step2, operands, (step1, step2))


def _is_aligned(tokenizer: Tokenizer, stem: str, pair: Pair) -> bool:
    one, other = (
        tokenizer.encode(variant.question, add_special_tokens=False)
        for variant in (pair.clean, pair.corrupted)
    )
    if len(one) != len(other) or sum(a != b for a, b in zip(one, other, strict=True)) != 1:
        return False
    clean, corrupted = (
        answer_tokens(tokenizer, stem, variant.answer) for variant in (pair.clean, pair.corrupted)
    )
    return clean.answer[0] != corrupted.answer[0]
