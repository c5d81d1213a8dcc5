"""Pairs of the real data sets: how many there are, and a hundred that were read by hand."""

import json
from collections import Counter
from pathlib import Path

import pytest

from codi_lens.data.counterfactuals import Made, Reason, gsm8k_pairs, prosqa_pairs
from codi_lens.data.counterfactuals.prosqa import walk
from codi_lens.data.datasets import load_rows

SHARED = Path(__file__).parents[3] / "shared" / "data"
READ = json.loads((Path(__file__).parent / "gsm8k_read_by_hand.json").read_text(encoding="utf-8"))
present = pytest.mark.skipif(
    not SHARED.exists(), reason="the real files are not part of the repository"
)


@pytest.fixture(scope="module")
def made() -> Made:
    """With the seed of the sample that was read."""
    return gsm8k_pairs(load_rows(SHARED / "gsm8k_test.jsonl"), seed=READ["seed"])


@present
def test_six_hundred_of_the_test_problems_give_a_pair(made: Made) -> None:
    assert len(made.pairs) == 605
    assert len(made.pairs) + len(made.refused) == 1319
    assert len({pair.pair_id for pair in made.pairs}) == 605
    for pair in made.pairs:
        change = pair.change
        assert change is not None
        clean, (place,) = pair.clean.question, change.places
        end = place + len(change.clean)
        assert clean[place:end] == change.clean != change.corrupted
        assert pair.corrupted.question == f"{clean[:place]}{change.corrupted}{clean[end:]}"
        results = [[*side.intermediates, side.answer] for side in (pair.clean, pair.corrupted)]
        differing = [a != b for a, b in zip(*results, strict=True)]
        assert differing.index(True) == change.enters - 1
        assert len(differing) == change.steps
        assert differing[-1]


@present
def test_the_program_makes_what_was_read_by_hand(made: Made) -> None:
    drawn = made.sample(100, READ["seed"]).pairs
    found = [
        (pair.pair_id, *pair.change.places, pair.change.clean, pair.change.corrupted)
        for pair in drawn
        if pair.change
    ]
    fields = ("id", "place", "clean", "corrupted")
    assert found == [tuple(entry[field] for field in fields) for entry in READ["pairs"]]
    right = [
        pair.corrupted.answer == entry["answer"]
        for pair, entry in zip(drawn, READ["pairs"], strict=True)
    ]
    assert right == [entry["verdict"] == "right" for entry in READ["pairs"]]
    assert sum(right) >= 99


@present
def test_what_was_found_wrong_by_its_kind_is_not_made_again() -> None:
    """All but errors of the data set itself, which nothing in a problem shows."""
    faults = [fault for one in READ["rounds"] for fault in one["wrong"]]
    refused = {
        (fault["id"], fault["clean"], fault["corrupted"])
        for fault in faults
        if fault["kind"].endswith("refused since")
    }
    ids = {fault["id"] for fault in faults}
    rows = load_rows(SHARED / "gsm8k_test.jsonl")
    alone = [row if index in ids else None for index, row in enumerate(rows)]
    pairs = gsm8k_pairs(alone, changes=1000).pairs
    again = {
        (pair.pair_id // 1000, pair.change.clean, pair.change.corrupted)
        for pair in pairs
        if pair.change
    }
    assert again
    assert not again & refused


@present
def test_bare_annotations_of_the_same_problems_agree_where_both_give_the_pair(made: Made) -> None:
    bare = gsm8k_pairs(load_rows(SHARED / "gsm8k_aug_test.txt"), seed=READ["seed"])
    whole = {pair.pair_id: pair for pair in made.pairs}
    same = [(pair, whole[pair.pair_id]) for pair in bare.pairs if pair.pair_id in whole]
    assert Counter(
        one.corrupted.answer == other.corrupted.answer
        for one, other in same
        if one.corrupted.question == other.corrupted.question
    ) == {True: len(same)}
    hidden = {one.id for one in made.refused if one.reason == Reason.UNANNOTATED}
    assert hidden & {pair.pair_id for pair in bare.pairs}


@present
def test_every_graph_of_prosqa_is_walked_to_the_other_word() -> None:
    rows = load_rows(SHARED / "prosqa_valid.json")
    pairs = prosqa_pairs(rows).pairs
    assert len(pairs) == len(rows) == 300
    for pair, row in zip(pairs, rows, strict=True):
        names = row["idx_to_symbol"]
        target, negative = names[row["target"]], names[row["neg_target"]]
        swapped = {target: negative, negative: target}
        edges = {(names[a], swapped.get(names[b], names[b])) for a, b in row["edges"]}
        facts = " ".join(f"Every {a} is a {b}." for a, b in edges)
        root = names[row["root"]]
        assert pair.corrupted.answer == f"{root} is a {negative}."
        assert walk(facts, root, negative) is not None
        assert walk(facts, root, target) is None
        assert pair.clean.intermediates == pair.corrupted.intermediates
        assert len(pair.clean.intermediates) == len(row["steps"]) - 1
