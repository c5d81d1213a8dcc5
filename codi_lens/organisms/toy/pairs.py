"""Clean/corrupted pairs of held-out problems, for activation patching.

The two questions of a pair share kind, phrasing and names, and differ in one operand: their
tokens are the same except for one number, so a patched activation differs for one reason only. Both number triples are
held out, the answers differ, and the model answers both questions right: otherwise there is
nothing that a patch could restore. Pairs are spread evenly over kinds and over which operand changes.
"""

import itertools
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from codi_lens.files import write_text
from codi_lens.organisms.toy import task
from codi_lens.organisms.toy.task import Operands, Problem

PAIRS_NAME = "pairs.json"
N_PAIRS = 60
_TRIES = 4
"""Candidates of each sort that are put to the model at a time."""

Answers = Callable[[list[str]], Sequence[str | int | None]]
"""From questions to the model's answers: a number, a text that ends in one, or None."""
_Candidate = tuple[Problem, Problem]
_Sort = tuple[str, str]  # kind, changed operand


def make_pairs(answers: Answers, *, seed: int = 0, n_pairs: int = N_PAIRS) -> list[dict[str, Any]]:
    """Seeded pairs in the prepared format: see the module's text for what they guarantee."""
    rng = random.Random(seed)
    sorts = list(itertools.product(task.KINDS, task.OPERAND_NAMES))
    rng.shuffle(sorts)
    quota = {sort: n_pairs // len(sorts) for sort in sorts}
    # What is left over goes to every second kind or so, never twice to one kind before all had one.
    spare = sorted(sorts, key=lambda sort: sum(s[0] == sort[0] for s in sorts[: sorts.index(sort)]))
    for sort in spare[: n_pairs % len(sorts)]:
        quota[sort] += 1
    pools = {sort: _candidates(*sort, rng) for sort in sorts if quota[sort]}
    chosen = _choose(pools, quota, answers)
    return [_record(index, pair, sort) for index, (sort, pair) in enumerate(chosen)]


def heldout_pairs(seed: int = 0) -> list[dict[str, Any]]:
    """All held-out problems, two by two within a kind, in the prepared format.

    The two problems of such a pair share nothing but their kind.
    """
    problems = task.heldout_problems(seed)
    couples = zip(problems[::2], problems[1::2], strict=True)
    records = [_record(index, pair, (pair[0].kind, "")) for index, pair in enumerate(couples)]
    return [{key: value for key, value in r.items() if key != "operand"} for r in records]


def write_pairs(pairs: list[dict[str, Any]], folder: Path) -> None:
    """Write `pairs.json`, one pair a line."""
    lines = ",\n".join(json.dumps(pair) for pair in pairs)
    write_text(folder / PAIRS_NAME, f"[\n{lines}\n]\n")


def _candidates(kind: str, operand: str, rng: random.Random) -> list[_Candidate]:
    """Every pair of held-out triples that differ in this operand alone, shuffled, each in a random wording."""
    place = task.OPERAND_NAMES.index(operand)

    def others(triple: Operands) -> tuple[int, ...]:
        return triple[:place] + triple[place + 1 :]

    found = []
    for clean, corrupted in itertools.permutations(task.heldout_triples(kind), 2):
        if others(clean) == others(corrupted):
            wording = task.draw_wording(kind, rng)
            pair = tuple(task.make_problem(kind, t, wording) for t in (clean, corrupted))
            if pair[0].answer != pair[1].answer:
                found.append((pair[0], pair[1]))
    rng.shuffle(found)
    return found


def _choose(
    pools: dict[_Sort, list[_Candidate]], quota: dict[_Sort, int], answers: Answers
) -> list[tuple[_Sort, _Candidate]]:
    """Take from each pool the first candidates that the model answers right on both sides."""
    chosen: list[tuple[_Sort, _Candidate]] = []
    used: set[tuple[str, frozenset[Operands]]] = set()
    missing = dict(quota)
    while open_sorts := [sort for sort in pools if missing[sort]]:
        tries: list[tuple[_Sort, _Candidate]] = []
        for sort in open_sorts:
            if not pools[sort]:
                raise ValueError(
                    f"only {quota[sort] - missing[sort]} of {quota[sort]} pairs of {sort}"
                )
            tries.extend((sort, pools[sort].pop()) for _ in range(min(_TRIES, len(pools[sort]))))
        for (sort, pair), right in zip(
            tries, _both_right([p for _, p in tries], answers), strict=True
        ):
            triples = (sort[0], frozenset(problem.operands for problem in pair))
            if right and missing[sort] and triples not in used:
                used.add(triples)
                missing[sort] -= 1
                chosen.append((sort, pair))
    return chosen


def _both_right(pairs: list[_Candidate], answers: Answers) -> list[bool]:
    problems = [problem for pair in pairs for problem in pair]
    given = answers([problem.question for problem in problems])
    right = [_number(text) == p.answer for text, p in zip(given, problems, strict=True)]
    return [a and b for a, b in zip(right[::2], right[1::2], strict=True)]


def _number(answer: str | int | None) -> int | None:
    """The number in an answer, whether it stands alone or ends a sentence."""
    if not isinstance(answer, str):
        return answer
    found = re.search(r"(-?\d+)\s*$", answer)
    return int(found[1]) if found else None


def _record(pair_id: int, pair: _Candidate, sort: _Sort) -> dict[str, Any]:
    def side(problem: Problem) -> dict[str, Any]:
        return {
            "question": problem.question,
            "answer": problem.answer,
            "operands": list(problem.operands),
            "intermediates": list(problem.intermediates),
        }

    clean, corrupted = pair
    kind, operand = sort
    sides = {"clean": side(clean), "corrupted": side(corrupted)}
    return {"pair_id": pair_id, **sides, "kind": kind, "operand": operand}
