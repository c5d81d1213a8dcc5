"""The embedded model's task, tokenizer, pairs, and its trainer on a minuscule scale."""

import random
from collections import Counter

import pytest

from codi_lens.organisms.toy import task
from codi_lens.organisms.toy.tokenizer import cot_text


def every_wording_once() -> list[task.Problem]:
    """One problem in each phrasing of each kind."""
    rng = random.Random(0)
    problems = []
    for kind in task.KINDS:
        by_phrasing = {wording.phrasing: wording for wording in task.wordings(kind)}
        assert len(by_phrasing) == task.n_phrasings(kind) >= 4
        problems += [
            task.make_problem(kind, rng.choice(task.heldout_triples(kind)), wording)
            for wording in by_phrasing.values()
        ]
    return problems


# -- task ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "operands", "intermediates", "answer", "last_step"),
    [
        ("team_add", (3, 5, 2), (8, 16), 24, "<<8+16=24>>"),
        ("team_sub", (9, 4, 3), (5, 15), 20, "<<5+15=20>>"),
        ("mul_sub", (7, 6, 5), (42, 37), 37, "<<42-5=37>>"),
        ("mul_add", (7, 6, 5), (42, 47), 47, "<<42+5=47>>"),
        ("add_mul", (7, 6, 4), (13, 52), 52, "<<13*4=52>>"),
        ("sub_mul", (9, 4, 6), (5, 30), 30, "<<5*6=30>>"),
        ("add_sub", (7, 6, 5), (13, 8), 8, "<<13-5=8>>"),
        ("sub_add", (9, 4, 6), (5, 11), 11, "<<5+6=11>>"),
    ],
)
def test_solutions_by_hand(kind, operands, intermediates, answer, last_step):
    problem = task.make_problem(kind, operands, task.wordings(kind)[0])
    assert problem.intermediates == intermediates
    assert problem.answer == answer
    assert problem.cot[-1] == last_step


def test_every_triple_is_within_range():
    for kind in task.KINDS:
        wording = task.wordings(kind)[0]
        for operands in task.triples(kind):
            problem = task.make_problem(kind, operands, wording)
            assert all(v in task.VALUE_RANGE for v in (*problem.intermediates, problem.answer))


def test_a_triple_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 9, 2\) is no triple of team_sub"):
        task.make_problem("team_sub", (2, 9, 2), task.wordings("team_sub")[0])


def test_each_question_has_its_three_numbers_once():
    for problem in every_wording_once():
        numbers = [
            int(word) for word in problem.question.replace(".", " ").split() if word.isdigit()
        ]
        assert numbers == list(problem.operands)
        assert problem.question.endswith("?")


def test_split_is_disjoint_and_complete():
    for kind in task.KINDS:
        held, trained = set(task.heldout_triples(kind)), set(task.train_triples(kind))
        assert not held & trained
        assert held | trained == task.triples(kind)
        assert 0.10 <= len(held) / len(task.triples(kind)) <= 0.15


def test_split_is_the_same_everywhere():
    assert task.heldout_triples("team_add")[:3] == ((2, 4, 5), (2, 4, 6), (2, 7, 3))


def test_training_never_samples_heldout():
    rng = random.Random(5)
    drawn = [task.sample_training(rng) for _ in range(2000)]
    assert not any(p.operands in task.heldout_triples(p.kind) for p in drawn)
    assert set(Counter(p.kind for p in drawn)) == set(task.KINDS)


def test_kind_weights_are_obeyed():
    weights = dict.fromkeys(task.KINDS, 0.0) | {"mul_add": 1.0}
    rng = random.Random(0)
    assert {task.sample_training(rng, weights).kind for _ in range(20)} == {"mul_add"}


def test_samplers_depend_on_their_seed_alone():
    random.seed(0)
    before = random.getstate()
    assert task.heldout_problems(7, per_kind=3) == task.heldout_problems(7, per_kind=3)
    assert task.heldout_problems(7, per_kind=3) != task.heldout_problems(8, per_kind=3)
    assert random.getstate() == before


def test_kinds_are_asked_about_equally_and_triples_in_turn():
    problems = task.heldout_problems(0, per_kind=90)
    assert Counter(p.kind for p in problems) == dict.fromkeys(task.KINDS, 90)
    for kind in task.KINDS:
        held = task.heldout_triples(kind)
        asked = Counter(p.operands for p in problems if p.kind == kind)
        assert set(asked) <= set(held)
        assert len(asked) == min(90, len(held))
        assert max(asked.values()) - min(asked.values()) <= 1


# -- tokenizer -------------------------------------------------------------------------------------


def test_numbers_and_the_space_before_them_are_tokens(tokenizer):
    ids = tokenizer("The answer is: 24", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["The", " answer", " is", ":", " ", "24"]


def test_text_survives_encoding(tokenizer):
    for problem in every_wording_once():
        for text in (problem.question, cot_text(problem.cot), f"The answer is: {problem.answer}"):
            ids = tokenizer(text)["input_ids"]
            assert ids[0] == tokenizer.bos_token_id
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_special_tokens(tokenizer):
    assert tokenizer.pad_token is None
    assert tokenizer("Ana juggles")["input_ids"][-1] == tokenizer.unk_token_id
    assert tokenizer.eos_token_id not in tokenizer("Ana")["input_ids"]


def test_changing_an_operand_changes_its_token_only(tokenizer):
    rng = random.Random(1)
    for kind in task.KINDS:
        one, two = rng.sample(task.train_triples(kind), 2)
        for phrasing in range(task.n_phrasings(kind)):
            wording = next(w for w in task.wordings(kind) if w.phrasing == phrasing)
            ids = [
                tokenizer(task.make_problem(kind, t, wording).question)["input_ids"]
                for t in (one, two)
            ]
            differing = [pair for pair in zip(*ids, strict=True) if pair[0] != pair[1]]
            changed = [pair for pair in zip(one, two, strict=True) if pair[0] != pair[1]]
            assert differing == [
                tuple(tokenizer.convert_tokens_to_ids([str(a), str(b)])) for a, b in changed
            ]
