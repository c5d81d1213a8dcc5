"""Pairs whose answers are texts, in ProsQA's manner, through what asks and patches, to the report."""

import json

import pytest
import torch

from codi_lens import HookedCodi, load_pairs, patch_positions
from codi_lens.analysis.latent_ablation import measure_necessity, passing
from codi_lens.analysis.lenses import intermediate_ranks, logit_lens
from codi_lens.cli.main import main
from codi_lens.patching.readout import READOUTS
from codi_lens.records.read import load
from tests.laws.oracle import cell
from tests.models.invented import CELL_METRICS
from tests.models.tiny import tiny_config, tiny_tokenizer, write_tiny
from tests.patching.test_positions import expected_cell

WORDS = ["Tom", " Tom", " a", "Every", " lempus", " scrompus", " or", "Is", ".", "###"]
STEM = "### "
LEMPUS, SCROMPUS = "Tom is a lempus.", "Tom is a scrompus."
QUESTION = "Every one is a {}. Tom is a one. Is Tom a lempus or scrompus?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model with these words, and pairs that it answers right, wrong, and with a number."""
    folder = tmp_path_factory.mktemp("texts")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(WORDS)
    write_tiny(folder / "model", config=tiny_config(answer_stem=STEM), tokenizer=tokenizer, seed=13)
    codi = HookedCodi.from_pretrained(folder / "model", dtype=torch.float64)
    asked = [QUESTION.format("lempus"), QUESTION.format("scrompus")]
    own = codi.generate(asked)
    assert own[0] != own[1]
    answers = [(LEMPUS, SCROMPUS), own, ("Tom is", "Tom is a"), (18, LEMPUS), (LEMPUS, LEMPUS)]
    entries = [
        {
            "pair_id": i,
            "clean": {"question": asked[0], "answer": clean},
            "corrupted": {"question": asked[1], "answer": corrupted},
        }
        for i, (clean, corrupted) in enumerate(answers)
    ]
    (folder / "pairs.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope="module")
def codi(folder):
    return HookedCodi.from_pretrained(folder / "model", dtype=torch.float64)


def test_a_run_from_preparing_to_the_report(folder, codi, tmp_path, capsys):
    pairs, run = tmp_path / "pairs", tmp_path / "run"
    assert main(["prepare_pairs", str(folder / "pairs.json"), "--out", str(pairs)]) == 0
    assert "5 pairs read, 4 kept, 1 set aside" in capsys.readouterr().out
    assert json.loads((pairs / "report.json").read_text())["answer_difference"] is None
    flags = ["--model", str(folder / "model"), "--pairs", str(pairs), "--dtype", "float64"]
    flags += ["--effect", "all", "--answers", "all", "--include-same-answer", "--out", str(run)]
    assert main(["position_patching", *flags]) == 0
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    assert SCROMPUS in (tmp_path / "report.html").read_text()
    entries = json.loads((run / "position_patching_results.json").read_text())
    assert [(entry["clean_answer"], entry["same_answer"]) for entry in entries][::3] == [
        (LEMPUS, False),
        (18, False),
    ]
    assert [entry["source_run"]["correct"] for entry in entries] == [False, True, *[False] * 3]
    sweep = load(run)
    assert list(sweep.pairs) == load_pairs(pairs)
    for index, pair in enumerate(sweep.pairs):
        for layer, position in ((0, 0), (2, 1)):
            expected = expected_cell(codi, pair, layer, position, "total", "denoise")
            for name in CELL_METRICS:
                found = float(
                    sweep.values(name, effect="total", layer=layer, position=position)[index]
                )
                assert found == pytest.approx(expected[name], abs=1e-9, nan_ok=True), name


def test_both_readouts_read_the_answer_where_the_stem_ends(folder, codi):
    pair = load_pairs(folder / "pairs.json")[0]
    tokens = READOUTS["stem"].answer(codi, pair)
    assert codi.tokens.text(tokens.stem) == STEM.rstrip()
    assert codi.tokens.text([*tokens.stem, *tokens.clean]) == STEM + LEMPUS
    assert codi.tokens.words([tokens.clean[tokens.first_difference]]) == [" lempus"]
    assert READOUTS["eot"].answer(codi, pair).clean == tokens.clean
    sweep = patch_positions(codi, [pair], answer_start="eot", layers=[1])
    assert sweep.values("logit_diff").isfinite().all()
    assert cell(codi, pair, [])["kl_divergence"] == 0


def test_necessity_filters_and_lenses_take_texts(folder, codi):
    pairs = load_pairs(folder / "pairs.json")
    assert [pair.pair_id for pair in passing(codi, pairs, "competent")] == [1]
    variants = [variant for pair in pairs[:2] for variant in (pair.clean, pair.corrupted)]
    asked = [v.question for v in variants], [v.answer for v in variants]
    necessity = measure_necessity(codi, *asked)
    assert necessity.with_latents(3).correct == (False, False, True, True)
    assert all(
        variants[own].answer != variants[other].answer for own, other in enumerate(necessity.donors)
    )
    strict = measure_necessity(codi, *asked, judge="exact")
    behind = [text.startswith(STEM.rstrip()) for text in strict.with_latents(3).texts[2:]]
    assert strict.with_latents(3).correct[2:] == tuple(not there for there in behind)
    logits, cache = codi.run_with_cache(variants[0].question, LEMPUS)
    assert logits.shape[1] == len(codi.to_str_tokens(variants[0].question, LEMPUS))
    ranks = intermediate_ranks(codi, logit_lens(codi, cache), variants[0])
    assert list(ranks) == [LEMPUS]
