"""The necessity check: its parts on a random model, its verdict on the embedded one."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from codi_lens import HookedCodi, Pair, Site, UserError, load_pairs
from codi_lens.analysis.asking import wilson
from codi_lens.analysis.latent_ablation import derange, measure_necessity, passing
from codi_lens.cli import layer_patching
from codi_lens.data.judges import is_right
from codi_lens.data.pairs import write_pairs
from codi_lens.model.hooks import replace as put
from codi_lens.shipped import MODELS

QUESTIONS = ["12 plus 34?", "one plus 2?", "5 plus 6 plus 7?", "3 plus 3?"]
ANSWERS = [46, 3, 18, 6]


def test_wilson_intervals_by_hand():
    # 8 of 10: (0.8 + 1.9208/10 ± 1.96·√(0.016 + 0.9604/100)) / 1.38416 (z = 1.96)
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.4902, abs=1e-3)
    assert high == pytest.approx(0.9433, abs=1e-3)
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == pytest.approx(1)


def test_donors_have_other_answers():
    answers = [random.Random(0).randrange(4) for _ in range(50)] + [1, 2]
    donors = derange(answers, seed=1)
    assert all(answers[donor] != answer for donor, answer in zip(donors, answers, strict=True))
    assert donors == derange(answers, seed=1) != derange(answers, seed=2)
    with pytest.raises(UserError, match="no other problem's differs"):
        derange([3, 3], seed=0)


def test_every_condition_is_what_it_says(tiny):
    result = measure_necessity(tiny, QUESTIONS, ANSWERS, batch=3)
    names = ["3 latents", "2 latents", "1 latent", "0 latents", "no wrapper"]
    swapped = "another problem's latents"
    assert list(result.conditions) == [*names, swapped, "mean latents", "noise latents"]
    for count in range(4):
        expected = tuple(tiny.generate(q, num_latents=count) for q in QUESTIONS)
        assert result.with_latents(count).texts == expected
    donors = list(result.donors)
    assert donors == derange(ANSWERS, 0)
    thoughts = tiny.run_with_hooks(QUESTIONS, ANSWERS).thoughts[:, :3]
    for name, fed in (
        (swapped, thoughts[donors]),
        ("mean latents", thoughts.mean(0).expand(4, 3, 32)),
    ):
        hooks = [(Site("hook_embed", k), put(fed[:, k])) for k in range(3)]
        assert result.conditions[name].texts == tuple(tiny.generate(QUESTIONS, fwd_hooks=hooks))


def test_no_wrapper_is_the_language_model_alone(tiny):
    result = measure_necessity(tiny, QUESTIONS, ANSWERS)
    for question, text in zip(QUESTIONS, result.conditions["no wrapper"].texts, strict=True):
        ids = tiny.tokens.tokenizer(question)["input_ids"] + tiny.tokens.stem()
        said = []
        while len(said) < 32:
            logits = tiny.model(torch.tensor([ids + said]))[0, -1]
            logits[tiny.ids.eot] = -torch.inf
            if int(logits.argmax()) == tiny.ids.eos:
                break
            said.append(int(logits.argmax()))
        assert tiny.tokens.text(said) == text


def test_a_run_without_latents_has_no_latents_to_exchange(tiny):
    result = measure_necessity(tiny, QUESTIONS, ANSWERS, num_latents=0)
    assert list(result.conditions) == ["0 latents", "no wrapper"]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """`necessity.json` of the embedded model on all its held-out problems."""
    out = tmp_path_factory.mktemp("runs") / "necessity"
    # In a process of its own, without the checks of shapes: it asks 400 questions under a dozen conditions.
    command = [
        sys.executable,
        "-m",
        "experiments.necessity",
        "--pairs",
        "toy-heldout",
        "--out",
        out,
    ]
    subprocess.run(
        command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert (out / "necessity.html").stat().st_size > 1000
    return json.loads((out / "necessity.json").read_text())


def test_the_record_says_whose_thoughts_each_question_was_lent(record):
    """A donor's answer differs; and how often it is given follows from the record and the pairs alone."""
    pairs = {pair.pair_id: pair for pair in load_pairs("toy-heldout")}
    answers = [getattr(pairs[q["pair_id"]], q["side"]).answer for q in record["questions"]]
    row = accuracy(record, "another problem's latents")
    lent = [answers[donor] for donor in row["donors"]]
    assert all(own != other for own, other in zip(answers, lent, strict=True))
    given = [is_right(t, other) for t, other in zip(row["answers"], lent, strict=True)]
    assert sum(given) / len(given) == row["donor_rate"]
    assert accuracy(record, "6 latents")["donors"] is None


def accuracy(record, condition):
    return next(row for row in record["conditions"] if row["condition"] == condition)


def test_the_embedded_model_answers_and_needs_its_thoughts(record):
    assert accuracy(record, "6 latents")["accuracy"] >= 0.97
    for name in ("0 latents", "another problem's latents", "mean latents"):
        assert accuracy(record, name)["accuracy"] <= 0.12, name
    assert accuracy(record, "6 latents")["n"] >= 400
    assert HookedCodi.from_pretrained("toy").model.cfg.n_layers >= 3


def test_the_card_has_the_measured_figures(record):
    card = (MODELS["toy"] / "README.md").read_text()
    for row in record["conditions"]:
        assert f"| {row['condition']} | {row['accuracy']:.1%} |" in card, row["condition"]
    for kind, row in record["by_kind"].items():
        assert f"| {kind} | {row['accuracy']:.1%} |" in card, kind


def test_the_embedded_model_is_small_and_nothing_in_it_is_pickled():
    files = [path for path in MODELS["toy"].rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") <= 4 * 2**20
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md"}


def test_the_pairs_of_the_embedded_model():
    pairs = load_pairs("toy")
    codi = HookedCodi.from_pretrained("toy")
    assert len(pairs) == 60
    assert {pair.operand for pair in pairs} == {"a", "b", "c"}
    for side in ("clean", "corrupted"):
        variants = [getattr(pair, side) for pair in pairs]
        texts = codi.generate([variant.question for variant in variants])
        assert texts == [f"The answer is: {variant.answer}" for variant in variants]
    for pair in pairs:
        clean, corrupted = (codi.tokens.prompt(v.question) for v in (pair.clean, pair.corrupted))
        assert sum(a != b for a, b in zip(clean, corrupted, strict=True)) == 1
        assert not pair.same_answer
        assert pair.kind is not None
        assert len(pair.clean.intermediates) == 2
        changed = [
            name
            for name, a, b in zip("abc", pair.clean.operands, pair.corrupted.operands, strict=True)
            if a != b
        ]
        assert changed == [pair.operand]


def test_filters_keep_pairs_by_what_the_model_answers():
    """The embedded model's pairs, every second one with a wrong answer on one side."""
    codi = HookedCodi.from_pretrained("toy")
    pairs = load_pairs("toy")[:12]
    for i in range(1, 12, 2):
        wrong = replace(pairs[i].corrupted, answer=pairs[i].corrupted.answer + 1)
        pairs[i] = replace(pairs[i], corrupted=wrong)
    assert passing(codi, pairs, "none") == pairs
    assert passing(codi, pairs, "competent") == pairs[::2]
    dependent = [
        pair
        for pair in pairs[::2]
        if not any(
            is_right(codi.generate(v.question, num_latents=0), v.answer)
            for v in (pair.clean, pair.corrupted)
        )
    ]
    assert passing(codi, pairs, "latent-dependent") == dependent
    assert dependent
    assert passing(codi, pairs, "competent", num_latents=0) != pairs[::2]


def test_the_programs_take_the_filter(tmp_path, capsys):
    flags = ["--limit", "6", "--filter", "latent-dependent", "--out", str(tmp_path / "run")]
    assert layer_patching.main(flags) == 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    codi = HookedCodi.from_pretrained("toy")
    expected = passing(codi, load_pairs("toy")[:6], "latent-dependent")
    assert manifest["pairs"]["n"] == len(expected) >= 1
    left_out = 6 - len(expected)
    assert (f"{left_out} pairs left out" in capsys.readouterr().out) == (left_out > 0)


def test_same_answer_pairs_are_set_aside_unless_asked_for(tmp_path, capsys):
    pairs = load_pairs("toy")[:3]
    same = Pair(99, pairs[0].clean, pairs[0].clean)
    write_pairs(tmp_path / "pairs.json", [*pairs, same])
    flags = ["--pairs", str(tmp_path / "pairs.json")]
    assert layer_patching.main([*flags, "--out", str(tmp_path / "without")]) == 0
    assert "1 pairs with the same answer on both sides set aside" in capsys.readouterr().out
    assert (
        layer_patching.main([*flags, "--include-same-answer", "--out", str(tmp_path / "with")]) == 0
    )
    read = {
        name: json.loads((tmp_path / name / "aggregate_statistics.json").read_text())["groups"]
        for name in ("without", "with")
    }
    assert "same_answer" not in read["without"]
    assert read["with"]["same_answer"]["n"] == 1
    assert read["with"]["all"]["n"] == read["without"]["all"]["n"] == 3
    assert read["with"]["same_answer"]["means"]["recovery"]["total"]["0"] is None
