"""Training the embedded model: what is taught, that it is seeded, and that its result is a checkpoint."""

import dataclasses

import pytest
import torch
from transformers import AutoTokenizer

from codi_lens.checkpoint.merge import merge_adapter
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.organisms.toy import task
from codi_lens.organisms.toy.card import make_card
from codi_lens.organisms.toy.export import factorise, write_model
from codi_lens.organisms.toy.family import FAMILIES
from codi_lens.organisms.toy.forward import (
    encode,
    greedy_answers,
    lent,
    read_question,
    student_states,
    think,
    thoughts_of,
)
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
from tests.organisms.test_toy_task import every_wording_once

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
def run() -> Trained:
    return train(TINY, lambda line: None)


@pytest.fixture(scope="module", params=FAMILIES)
def any_run(request) -> Trained:
    """A run of each family."""
    return train(dataclasses.replace(TINY, family=request.param), lambda line: None)


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
                thinking, _ = think(run.model, lent(fed), alone, own, n)
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
