"""What is written is what is read, in both formats, and every damage is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codi_lens.data.answers import is_number, same_answer
from codi_lens.data.changes import Change
from codi_lens.data.pairs import (
    Pair,
    Variant,
    load_pairs,
    pair_as_json,
    pairs_digest,
    write_json,
    write_pairs,
)
from codi_lens.data.prepare import prepare
from tests.data.test_pairs import faults, read


def test_a_failed_write_leaves_the_old_files_and_no_drafts(tmp_path: Path) -> None:
    old, other = tmp_path / "a.json", tmp_path / "b.json"
    write_json({old: [1]})
    with pytest.raises(TypeError):
        write_json({old: [2], other: object()})
    assert json.loads(old.read_text()) == [1]
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


questions = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


answers = st.one_of(
    st.integers(-(10**9), 10**9),
    st.decimals(-1000, 1000, places=2).map(float).map(lambda x: int(x) if x.is_integer() else x),
)


integers = st.lists(st.integers(), max_size=3).map(tuple)


results = st.lists(answers | questions.filter(lambda text: not is_number(text)), max_size=3).map(
    tuple
)


variants = st.builds(Variant, questions, answers, integers, results)


names = st.none() | st.text(st.characters(exclude_categories=["Cs"]))


changes = st.none() | st.builds(
    Change, questions, questions, integers, st.integers(), st.integers()
)


pair_lists = st.lists(
    st.builds(Pair, st.integers(), variants, variants, names, names, changes),
    min_size=1,
    max_size=5,
    unique_by=lambda pair: pair.pair_id,
)


def as_flat(pairs: list[Pair]) -> list[dict[str, Any]]:
    return [
        {"pair_id": pair.pair_id, "variant": side, **pair_as_json(pair)[side]}
        for pair in pairs
        for side in ("clean", "corrupted")
    ]


@given(pair_lists)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair]
) -> None:
    file = tmp_path_factory.mktemp("pairs") / "given.json"
    write_pairs(file, pairs)
    assert load_pairs(file) == pairs
    assert pairs_digest(load_pairs(file)) == pairs_digest(pairs)


@given(pair_lists, st.randoms(use_true_random=False))
def test_both_formats_say_the_same(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair], rng: Any
) -> None:
    entries = as_flat(pairs)
    rng.shuffle(entries)
    found = {pair.pair_id: pair for pair in read(tmp_path_factory.mktemp("pairs"), entries)}
    assert {pair.pair_id: (pair.clean, pair.corrupted) for pair in pairs} == {
        pair_id: (pair.clean, pair.corrupted) for pair_id, pair in found.items()
    }


@given(pair_lists)
def test_preparing_splits_the_pairs_by_answer(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair]
) -> None:
    file = tmp_path_factory.mktemp("pairs") / "given.json"
    write_pairs(file, pairs)
    report = prepare(file)
    kept = [pair for pair in pairs if pair.clean.answer != pair.corrupted.answer]
    assert list(report.kept) == kept
    assert [one.pair for one in report.set_aside] == [pair for pair in pairs if pair not in kept]
    assert all(same_answer(o.pair.clean.answer, o.pair.corrupted.answer) for o in report.set_aside)


DAMAGE: dict[str, list[Any]] = {
    "pair_id": [None, "1", 1.5, True, []],
    "variant": [None, "Clean", 0, ["clean"], {}],
    "question": [None, "", "  ", 3, ["?"]],
    "answer": [None, "", False, float("nan"), float("inf"), 1e300, {}],
}


@given(pair_lists, st.data())
def test_every_damage_is_named(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair], data: st.DataObject
) -> None:
    """However many entries are damaged, each one's pair (or place) and field are listed."""
    entries = as_flat(pairs)
    places = data.draw(st.sets(st.integers(0, len(entries) - 1), min_size=1))
    expected = []
    for place in places:
        field = data.draw(st.sampled_from(sorted(DAMAGE)))
        name = f"pair {entries[place]['pair_id']}, {entries[place]['variant']}"
        if field == "pair_id":
            name = f"entry {place}"
        elif field == "variant":
            name = f"pair {entries[place]['pair_id']}"
        if data.draw(st.booleans()):
            entries[place][field] = data.draw(st.sampled_from(DAMAGE[field]))
            expected.append(f"{name}: {field}: expected ")
        else:
            del entries[place][field]
            expected.append(f"{name}: {field}: missing")
    found = faults(tmp_path_factory.mktemp("pairs"), entries)
    for start in expected:
        assert any(line.startswith(start) for line in found), (start, found)
