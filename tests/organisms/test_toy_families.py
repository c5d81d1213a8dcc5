"""The embedded models of other families: how they cut text, how they are trained and stored, what was shipped."""

import random
from dataclasses import replace

import pytest
import torch

from codi_lens import HookedCodi, load_pairs
from codi_lens.analysis.latent_ablation import measure_necessity
from codi_lens.cli.necessity import entry
from codi_lens.organisms.toy import task
from codi_lens.organisms.toy.export import write_model
from codi_lens.organisms.toy.family import FAMILIES
from codi_lens.organisms.toy.forward import encode, thoughts_of
from codi_lens.organisms.toy.tokenizer import build_gpt2_tokenizer, build_tokenizer, cot_text
from codi_lens.organisms.toy.train import Trained, train
from codi_lens.shipped import EMBEDDED
from tests.organisms.test_toy_training import TINY

OTHERS = ("toy-gpt2", "toy-coconut")
ANSWERS = {"toy-gpt2": "The answer is: {}", "toy-coconut": "### {}"}


@pytest.fixture(scope="module", params=OTHERS)
def run(request: pytest.FixtureRequest) -> Trained:
    return train(replace(TINY, family=request.param), lambda line: None)


@pytest.fixture(scope="module", params=OTHERS)
def shipped(request: pytest.FixtureRequest) -> tuple[str, HookedCodi]:
    return request.param, HookedCodi.from_pretrained(request.param)


def problems() -> list[task.Problem]:
    return task.heldout_problems(seed=4, per_kind=1)


# -- tokenizer -------------------------------------------------------------------------------------


def test_gpt2s_numbers_are_one_token_with_the_space_before_them():
    tokenizer = build_gpt2_tokenizer()
    for text, tokens in {
        "The answer is: 24": ["The", " answer", " is", ":", " 24"],
        "### 24": ["###", " 24"],
        " in total?\n": [" in", " total", "?", "\n"],
    }.items():
        assert tokenizer.tokenize(text) == tokens
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_gpt2s_bos_is_eos_and_not_put_in_front():
    tokenizer = build_gpt2_tokenizer()
    assert tokenizer.bos_token_id == tokenizer.eos_token_id
    assert tokenizer.bos_token_id not in tokenizer("The answer is: 24")["input_ids"]


@pytest.mark.parametrize("build", [build_tokenizer, build_gpt2_tokenizer])
def test_every_problem_can_be_read(build):
    tokenizer, rng = build(), random.Random(2)
    for problem in [task.sample_training(rng) for _ in range(200)]:
        for text in (problem.question, cot_text(problem.cot), f"{problem.answer}"):
            assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"], text


# -- training and storing --------------------------------------------------------------------------


def test_padding_changes_nothing(run: Trained):
    together = thoughts_of(
        run.model, run.projection, encode(problems(), run.tokenizer, run.family), 3
    )
    for problem, thoughts in zip(problems(), together, strict=True):
        alone = encode([problem], run.tokenizer, run.family)
        own = thoughts_of(run.model, run.projection, alone, 3)[0]
        torch.testing.assert_close(own, thoughts, rtol=0, atol=1e-5)


def test_nothing_but_rounding_on_disk_parts_what_is_loaded_from_what_was_trained(run, tmp_path):
    if run.family.weights is not None:
        run.model.to(run.family.weights).float()  # the file holds no more than that
    write_model(run, tmp_path)
    codi = HookedCodi.from_pretrained(tmp_path)
    ours = thoughts_of(run.model, run.projection, encode(problems(), run.tokenizer, run.family), 3)
    theirs = codi.run_with_hooks([p.question for p in problems()], [p.answer for p in problems()])
    # Adapters in half precision round what was learned since the base stage.
    exact = run.family.adapters is None
    torch.testing.assert_close(theirs.thoughts[:, :3], ours, rtol=0, atol=1e-5 if exact else 5e-3)


# -- shipped ---------------------------------------------------------------------------------------


def test_each_family_is_shipped_with_pairs():
    assert set(FAMILIES) == set(EMBEDDED)


@pytest.mark.parametrize("name", OTHERS)
def test_it_is_small(name):
    assert sum(p.stat().st_size for p in EMBEDDED[name].iterdir() if "json" not in p.name) <= 10**6


def test_it_answers_and_needs_its_thoughts_as_its_card_says(shipped):
    name, codi = shipped
    assert codi.model.cfg.n_layers == 2
    pairs = load_pairs("toy-heldout")
    variants = [variant for pair in pairs for variant in (pair.clean, pair.corrupted)]
    measured = measure_necessity(codi, [v.question for v in variants], [v.answer for v in variants])
    record = entry(measured, [pair.kind for pair in pairs for _ in range(2)])
    figures = {row["condition"]: row["accuracy"] for row in record["conditions"]}
    assert figures["6 latents"] >= 0.95
    for condition in ("0 latents", "another problem's latents", "mean latents"):
        assert figures[condition] <= 0.12, condition
    card = (EMBEDDED[name] / "README.md").read_text()
    for condition, accuracy in figures.items():
        assert f"| {condition} | {accuracy:.1%} |" in card, condition
    for kind, row in record["by_kind"].items():
        assert f"| {kind} | {row['accuracy']:.1%} |" in card, kind


def test_its_pairs_differ_in_one_token_and_are_answered_right(shipped):
    name, codi = shipped
    pairs = load_pairs(name)
    assert len(pairs) == 60
    for side in ("clean", "corrupted"):
        variants = [getattr(pair, side) for pair in pairs]
        texts = codi.generate([variant.question for variant in variants])
        assert texts == [ANSWERS[name].format(variant.answer) for variant in variants]
    for pair in pairs:
        clean, corrupted = (codi.tokens.prompt(v.question) for v in (pair.clean, pair.corrupted))
        assert sum(a != b for a, b in zip(clean, corrupted, strict=True)) == 1
        assert not pair.same_answer
