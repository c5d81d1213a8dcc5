"""The programs that read attention and logits off unpatched runs, as their users run them."""

import json

import pytest
import torch

from codi_lens import (
    HookedCodi,
    Pair,
    attention_of,
    attribute_logits,
    load_pairs,
    mean_attention,
    plots,
)
from codi_lens.analysis.attention import MeanAttention
from codi_lens.cli import attention, logit_attribution
from codi_lens.data.pairs import write_pairs
from tests.plots.seeing import cells_of


@pytest.fixture(scope="module")
def toy():
    return HookedCodi.from_pretrained("toy"), load_pairs("toy")[:3]


def test_logit_attribution_writes_parts_that_sum_to_the_logits(toy, tmp_path, capsys):
    codi, pairs = toy
    out = tmp_path / "parts"
    assert logit_attribution.main(["--limit", "3", "--side", "corrupted", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    found = json.loads((out / "logit_attribution.json").read_text())
    for entry in found["pairs"]:
        assert sum(entry["parts"]) == pytest.approx(entry["logit_diff"], abs=1e-4)
    named = dict(zip(found["components"], found["mean"], strict=True))
    for head, row in zip(found["heads"], found["mean_by_source"], strict=True):
        assert sum(row) == pytest.approx(named[head], abs=1e-4)
    largest = max(named, key=lambda name: abs(named[name]))
    assert f"{largest:<28}{named[largest]:>7.3f}" in printed
    assert "<title>" in (out / "logit_attribution.html").read_text()
    figure = plots.logit_attribution(attribute_logits(codi, pairs, side="corrupted"))
    heat, bars = figure.data
    assert list(bars.x) == pytest.approx(found["mean"], abs=1e-4)
    at = found["components"].index(found["heads"][5])
    assert cells_of(heat)[at].tolist() == pytest.approx(found["mean_by_source"][5], abs=1e-4)
    assert cells_of(heat)[found["components"].index("mlp1")].isnan().all()


def test_attention_writes_shares_that_sum_to_one(toy, tmp_path, capsys):
    codi, pairs = toy
    out = tmp_path / "attention"
    assert attention.main(["--limit", "3", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    found = json.loads((out / "attention.json").read_text())
    mean = torch.tensor(found["mean"])
    assert mean.shape == (3, 4, len(found["steps"]), len(found["groups"]))
    torch.testing.assert_close(mean.sum(-1), torch.ones(mean.shape[:-1]), atol=1e-6, rtol=0)
    first = found["first_question"]
    assert first["labels"] == codi.to_str_tokens(pairs[0].clean.question, pairs[0].clean.answer)
    top = first["most_attended"]["4"][0]
    assert f"{top['label']!r} {top['weight']:.2f}" in printed
    assert "z4 0.9" in printed.splitlines()[-5]
    assert "<title>" in (out / "attention.html").read_text()


def test_attention_of_a_model_without_thoughts(tmp_path, capsys):
    flags = ["--limit", "2", "--num-latents", "0", "--out", str(tmp_path / "attention")]
    assert attention.main(flags) == 0
    assert "  eot " in capsys.readouterr().out


def test_maps_of_attention_leave_out_what_comes_later(toy):
    codi, pairs = toy
    mean = mean_attention(codi, [pair.clean for pair in pairs])
    figure = plots.attention(mean)
    at = mean.steps.index(2)
    cells = cells_of(figure.data[at])
    seen = mean.groups.index("z2") + 1
    torch.testing.assert_close(
        cells[:, :seen], mean.weights[:, :, at].flatten(0, 1)[:, :seen].double()
    )
    assert cells[:, seen:].isnan().all()
    asked = pairs[0].clean
    _, cache = codi.run_with_cache(asked.question, asked.answer)
    one = attention_of(codi, cache, asked.question, asked.answer)
    row = cells_of(plots.attention_to_tokens(one, layer=1, head=2).data[0])[one.steps.index(2)]
    last = one.positions.last(2)
    assert row[: last + 1].tolist() == one.of(1, 2)[one.steps.index(2)][: last + 1].tolist()
    assert row[last + 1 :].isnan().all()


def test_many_heads_are_drawn_by_layer():
    weights = torch.rand(32, 32, 15, 18).softmax(-1)
    steps = ("bot", *range(12), "eot", "answer")
    groups = ("frame", "numbers", "words", "bot", *(f"z{k}" for k in range(12)), "eot", "answer")
    figure = plots.attention(MeanAttention(weights, steps, groups, 9))
    assert len(figure.data) == 15
    torch.testing.assert_close(cells_of(figure.data[3]).float(), weights[:, :, 3].mean(1))
    assert figure.layout.width < 1600


def test_pairs_without_a_difference_leave_nothing_written(tmp_path, capsys):
    asked = load_pairs("toy")[0].clean
    write_pairs(tmp_path / "same.json", [Pair(0, asked, asked)])
    out = tmp_path / "out"
    flags = ["--pairs", str(tmp_path / "same.json"), "--out", str(out)]
    assert logit_attribution.main(flags) == 2
    assert "has no pair whose answers differ" in capsys.readouterr().err
    assert not out.exists()
