"""The pairs of the embedded model: held out, balanced, answered right."""

import functools
import itertools
import json
from collections import Counter

import pytest

from codi_lens.data.pairs import load_pairs
from codi_lens.organisms.toy import task
from codi_lens.organisms.toy.pairs import make_pairs, write_pairs


@functools.cache
def answer_book() -> dict[str, int]:
    """The answer to every held-out question."""
    problems = (
        task.make_problem(kind, operands, wording)
        for kind in task.KINDS
        for wording, operands in itertools.product(task.wordings(kind), task.heldout_triples(kind))
    )
    return {problem.question: problem.answer for problem in problems}


def solve(questions: list[str]) -> list[int]:
    return [answer_book()[question] for question in questions]


@pytest.fixture(scope="module")
def pairs():
    return make_pairs(solve, seed=0, n_pairs=60)


def test_pairs_differ_in_one_operand_and_are_held_out(pairs):
    for pair in pairs:
        clean, corrupted = pair["clean"], pair["corrupted"]
        place = "abc".index(pair["operand"])
        differ = [x != y for x, y in zip(clean["operands"], corrupted["operands"], strict=True)]
        assert differ == [index == place for index in range(3)]
        assert clean["answer"] != corrupted["answer"]
        words = [side["question"].split(" ") for side in (clean, corrupted)]
        assert sum(x != y for x, y in zip(*words, strict=True)) == 1
        for side in (clean, corrupted):
            assert tuple(side["operands"]) in task.heldout_triples(pair["kind"])


def test_pairs_are_balanced_and_distinct(pairs):
    assert [pair["pair_id"] for pair in pairs] == list(range(60))
    sorts = Counter((pair["kind"], pair["operand"]) for pair in pairs)
    assert len(sorts) == 24
    assert set(sorts.values()) <= {2, 3}
    assert set(Counter(pair["kind"] for pair in pairs).values()) <= {7, 8}
    assert set(Counter(pair["operand"] for pair in pairs).values()) <= {19, 20, 21}
    keys = {
        (p["kind"], frozenset((tuple(p["clean"]["operands"]), tuple(p["corrupted"]["operands"]))))
        for p in pairs
    }
    assert len(keys) == 60


def test_pairs_follow_their_seed():
    assert make_pairs(solve, seed=1, n_pairs=5) == make_pairs(solve, seed=1, n_pairs=5)
    assert make_pairs(solve, seed=1, n_pairs=5) != make_pairs(solve, seed=2, n_pairs=5)


def test_pairs_need_right_answers():
    def even_only(questions: list[str]) -> list[str | None]:
        return [f"The answer is: {n}" if n % 2 == 0 else None for n in solve(questions)]

    chosen = make_pairs(even_only, n_pairs=10)
    assert all(p[side]["answer"] % 2 == 0 for p in chosen for side in ("clean", "corrupted"))
    with pytest.raises(ValueError, match="only 0 of"):
        make_pairs(lambda questions: [None] * len(questions), n_pairs=3)


def test_pairs_file_is_read_by_the_library(pairs, tmp_path):
    write_pairs(pairs, tmp_path)
    assert json.loads((tmp_path / "pairs.json").read_text()) == pairs
    read = load_pairs(tmp_path / "pairs.json")
    assert [pair.operand for pair in read] == [pair["operand"] for pair in pairs]
