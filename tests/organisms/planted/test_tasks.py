"""The tasks of planted mechanisms: results by hand, wordings of one length, what is held out, and pairs."""

import random

import pytest

from codi_lens.errors import UserError
from codi_lens.organisms.planted.family import build_tokenizer
from codi_lens.organisms.planted.mechanism import KV, MECHANISMS, THOUGHT
from codi_lens.organisms.planted.pairs import make_pairs
from codi_lens.organisms.planted.task import WORDINGS, Chain, Lookup, Tree, is_heldout


def test_results_by_hand():
    chain, tree, lookup = Chain(3), Tree(), Lookup()
    assert chain.values((6, 7, 4, 5), "+-+", {}) == (3, 9, 4)
    assert chain.values((6, 7, 4, 5), "+-+", {1: 2}) == (3, 2, 7)
    assert chain.text((6, 7, 4, 5), "+-+", "symbols") == "6 + 7 - 4 + 5"
    assert chain.text((6, 7, 4, 5), "+-+", "words") == "Start with 6, plus 7, minus 4, plus 5"
    assert tree.values((1, 2, 3, 9), "+--", {}) == (3, 4, 9)
    assert tree.values((1, 2, 3, 9), "+--", {0: 6, 1: 1}) == (6, 1, 5)
    assert tree.text((1, 2, 3, 9), "+--", "symbols") == "(1 + 2) - (3 - 9)"
    assert lookup.values((1, 3, 9, 8, 7, 6, 5, 4), "-", {}) == (4, 5)
    assert lookup.values((1, 3, 9, 8, 7, 6, 5, 4), "-", {0: 0}) == (0, 9)


@pytest.mark.parametrize("name", MECHANISMS)
def test_questions_of_a_wording_have_one_length_and_no_unknown_token(name):
    tokenizer, task, rng = build_tokenizer(), MECHANISMS[name].task, random.Random(0)
    for wording in WORDINGS:
        problems = task.sample(rng, 50, wording, heldout=False)
        ids = tokenizer([p.question for p in problems])["input_ids"]
        assert len({len(row) for row in ids}) == 1
        assert tokenizer.unk_token_id not in {token for row in ids for token in row}
        assert not any(is_heldout(p.numbers, p.operations) for p in problems)


def test_about_one_problem_in_eight_is_held_out():
    rng, task = random.Random(0), Chain(3)
    share = sum(is_heldout(*task.draw(rng)) for _ in range(4000)) / 4000
    assert 0.10 < share < 0.15


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_mechanism_is_one(name):
    """Its rules, its map and its way agree: what a thought holds can be set there, and only what holds is on the way."""
    mechanism = MECHANISMS[name]
    strict = [rule for rule in mechanism.rules if rule.strict]
    alone = {
        k
        for rule in strict
        if len(rule.exchanged) == 1
        for part, k in rule.exchanged
        if part == THOUGHT
    }
    for thought, held in mechanism.holds.items():
        setting = {
            result
            for rule in mechanism.rules
            for part, k in rule.exchanged
            if k == thought and part != KV
            for result in rule.sets
        }
        assert set(held) <= setting
        assert (thought in alone) == (name == "redundant")
    on_the_way = {k for thoughts in mechanism.way.values() for k in thoughts}
    assert on_the_way <= set(mechanism.holds)
    assert set(range(mechanism.num_latents)) - set(mechanism.holds) <= alone


def test_pairs_are_asked_of_the_model_and_refused_if_it_is_wrong():
    task = Chain(3)
    pairs = make_pairs(task, lambda problems: [True] * len(problems), count=16)
    assert {(pair.kind, pair.operand) for pair in pairs} == {
        (w, o) for w in WORDINGS for o in task.operands
    }
    assert make_pairs(task, lambda problems: [True] * len(problems), count=16) == pairs
    with pytest.raises(UserError, match="only 0 of 16 pairs"):
        make_pairs(task, lambda problems: [False] * len(problems), count=16)
