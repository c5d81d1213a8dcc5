"""The embedded model's task, tokenizer, pairs, and its trainer on a minuscule scale."""

import dataclasses
import functools
import itertools
import json
import random
from collections import Counter

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from codi_lens.checkpoint.merge import merge_adapter
from codi_lens.data.pairs import load_pairs
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.organisms.toy import task
from codi_lens.organisms.toy.card import make_card
from codi_lens.organisms.toy.export import factorise, write_model
from codi_lens.organisms.toy.family import FAMILIES
from codi_lens.organisms.toy.forward import (
    encode,
    greedy_answers,
    read_question,
    student_states,
    think,
    thoughts_of,
)
from codi_lens.organisms.toy.pairs import make_pairs, write_pairs
from codi_lens.organisms.toy.tokenizer import build_tokenizer, cot_text
from codi_lens.organisms.toy.train import (
    EMPTY_WEIGHT,
    Recipe,
    Size,
    Stage,
    Trained,
    _swapped_loss,
    start,
    teacher_accuracy,
    train,
)

TINY = Recipe(
    seed=3,
    size=Size(
        n_layers=2, d_model=16, d_mlp=24, n_heads=4, n_kv_heads=2, d_projection=8, n_latents=3
    ),
    stages=(
        Stage("base", steps=2, batch=3, lr=1e-2, codi=False),
        Stage("codi", steps=3, batch=3, lr=1e-2, sealed=0.5),
        Stage("swap", steps=2, batch=3, lr=1e-2, swapped=True),
    ),
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def run() -> Trained:
    return train(TINY, lambda line: None)


@pytest.fixture(scope="module", params=FAMILIES)
def any_run(request) -> Trained:
    """A run of each family."""
    return train(dataclasses.replace(TINY, family=request.param), lambda line: None)


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


# -- pairs -----------------------------------------------------------------------------------------


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


# -- training --------------------------------------------------------------------------------------


def test_padding_changes_nothing(run):
    """A problem's thoughts and answers in a batch of unlike questions are those it has alone."""
    problems = every_wording_once()[::5]
    model, projection = run.model.double(), run.projection.double()
    try:
        together = thoughts_of(model, projection, encode(problems, run.tokenizer), 3)
        alone = [thoughts_of(model, projection, encode([p], run.tokenizer), 3) for p in problems]
    finally:
        run.model.float(), run.projection.float()
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=2e-6)


def test_teacher_reads_question_and_steps_only(run):
    """The teacher equals a plain forward pass over question, steps and answer, without bot."""
    problem = every_wording_once()[0]
    batch = encode([problem], run.tokenizer)
    text = torch.cat([batch.question[:, :-1], batch.cot, batch.answer], dim=1)
    logits = run.model(text).logits[:, -3:-1]
    right = bool((logits.argmax(-1) == batch.answer[:, -2:]).all())
    assert teacher_accuracy(run, [problem]) == right
    prefix, last = read_question(run.model, batch)
    assert prefix.visible.shape == batch.question.shape
    torch.testing.assert_close(
        run.model.lm_head(last), run.model(text).logits[:, batch.question.shape[1] - 2]
    )


def test_factors_give_the_difference_back():
    torch.manual_seed(0)
    for shape in ((12, 12), (6, 12), (20, 12), (12, 20)):
        weight, delta = torch.randn(shape), torch.randn(shape)
        a, b = factorise(delta, rank=12, alpha=5.0)
        torch.testing.assert_close(
            merge_adapter(weight, a, b, 5.0), weight + delta, rtol=0, atol=1e-5
        )
    with pytest.raises(ValueError, match="rank 4 cannot hold"):
        factorise(torch.zeros(6, 12), rank=4, alpha=1.0)


def test_training_is_seeded_and_leaves_global_random_state(run):
    state = torch.get_rng_state()
    again = train(TINY, lambda line: None)
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in run.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], tensor, msg=name)
    untrained = start(TINY).model.state_dict()
    assert all(not torch.equal(untrained[name], t) for name, t in run.base.items())


def test_curve_reaches_the_end_of_every_stage(run):
    ends = {line.stage: line.step for line in run.curve}
    assert ends == {"base": 2, "codi": 3, "swap": 2}


def test_a_trained_folder_is_a_checkpoint(any_run, tmp_path):
    """What the library loads answers as the model in training did, up to the precision on disk."""
    run = any_run
    write_model(run, tmp_path)
    codi = HookedCodi.from_pretrained(tmp_path)
    assert codi.config.num_latents == 3
    assert codi.load_report.lora_rank == (16 if run.family.adapters else 0)
    problems = every_wording_once()[::6]
    batch = encode(problems, run.tokenizer, run.family)
    ours = thoughts_of(run.model, run.projection, batch, 3)
    theirs = codi.run_with_hooks([p.question for p in problems], [p.answer for p in problems])
    halves = torch.float16 in (run.family.adapters, run.family.weights)
    torch.testing.assert_close(theirs.thoughts[:, :3], ours, rtol=0, atol=1e-2 if halves else 1e-4)
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    assert len(reloaded) == len(run.tokenizer)
    assert reloaded(problems[0].question) == run.tokenizer(problems[0].question)


def test_greedy_answers_are_those_of_the_library(any_run, tmp_path):
    run = any_run
    write_model(run, tmp_path)
    codi = HookedCodi.from_pretrained(tmp_path)
    problems = every_wording_once()[::6]
    batch = encode(problems, run.tokenizer, run.family)
    answers = greedy_answers(run.model, run.projection, run.tokenizer, batch, 3)
    texts = codi.generate([problem.question for problem in problems])
    for answer, text in zip(answers, texts, strict=True):
        assert (f"{run.family.answer_stem}{answer}" == text) == (answer is not None)


def test_the_swapped_loss_asks_for_the_next_problems_answer(run):
    """By hand: question i with the thoughts of i + 1, one problem at a time."""
    problems = every_wording_once()[:3]
    batch = encode(problems, run.tokenizer)
    prefix, _ = read_question(run.model, batch)
    thoughts = thoughts_of(run.model, run.projection, batch, 3)
    with torch.no_grad():
        loss = _swapped_loss(run, batch, prefix, thoughts)
        expected = torch.zeros(())
        for i in range(3):
            alone, other = encode([problems[i]], run.tokenizer), (i + 1) % 3
            forced = dataclasses.replace(alone, answer=batch.answer[other : other + 1])
            own, _ = read_question(run.model, alone)
            for n, weight in ((3, 1.0), (0, EMPTY_WEIGHT)):
                fed = thoughts[other : other + 1]
                thinking, _ = think(run.model, run.projection, alone, own, n, fed)
                states = student_states(run.model, forced, thinking, n)[-1]
                logits = run.model.lm_head(states)[0]
                expected += weight * torch.nn.functional.cross_entropy(logits, forced.answer[0]) / 3
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_the_card_tells_task_recipe_and_figures(run):
    row = {
        "condition": "3 latents",
        "accuracy": 0.75,
        "n": 8,
        "interval_95": [0.4, 0.9],
        "donor_rate": None,
    }
    swapped = row | {"condition": "another problem's latents", "accuracy": 0.1, "donor_rate": 0.5}
    by_kind = {kind: {"accuracy": 0.75, "n": 1} for kind in task.KINDS}
    record = {"conditions": [row, swapped], "by_kind": by_kind}
    card = make_card(run.recipe, run.curve, record, seconds=90.0)
    assert all(f"| {kind} | 75.0% |" in card for kind in task.KINDS)
    assert "Seed 3" in card
    assert "| another problem's latents | 10.0% | 40.0% – 90.0% | 50.0% |" in card
