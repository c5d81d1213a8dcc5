"""The benchmark on models so small that only its bookkeeping is measured."""

import json

import pytest
import torch

from experiments import benchmark
from experiments.benchmarks import growth, models, runs
from experiments.benchmarks.floor import counted, floor
from experiments.benchmarks.models import Shape, make_bench
from experiments.benchmarks.runs import make_work, sweep

SMALL = Shape(layers=2, d_model=32, heads=4, kv_heads=2, d_mlp=48, d_vocab=1100, prompt=12)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(models.SHAPES, "medium", SMALL)


def test_it_compares_checks_and_writes(small, tmp_path, capsys):
    flags = ["--shape", "medium", "--limit", "2", "--repeats", "2", "--sample", "3"]
    assert benchmark.main([*flags, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert list(found["seconds"]) == ["a", "a′", "b", "c", "d", "d′"]
    assert set(found["ratios"]) == {"a/c", "a′/c", "b/c", "c/d", "c/d′"}
    for one, times in found["seconds"].items():
        assert 0 < times["least"] <= times["median"] <= times["most"], one
    middle = {name: times["median"] for name, times in found["seconds"].items()}
    assert found["ratios"]["c/d"] == pytest.approx(middle["c"] / middle["d"])
    assert (found["pairs"], found["cells_per_pair"], found["sampled_cells"]) == (2, 12, 3)
    assert found["disagreement"] < 1e-3
    said = capsys.readouterr().out
    assert "c/d′" in said
    assert "benchmark.json" in said


def test_tokens_are_those_that_have_to_be_fed(small):
    bench = make_bench("medium", 1)
    work = make_work(bench, None, sample=1)
    with torch.no_grad(), counted(bench.codi.loop) as passes:
        sweep(work)
    # Two prompts with bot, a base, a source and 2 layers × k cells, all with eot and stem.
    latents = [(2 + 2 * k, 1) for k in range(1, 7)]
    assert passes.fed == [(2, 12), *latents, (14, 9)]
    assert sum(passes.read) == 14 * 9
    before = len(passes.fed)
    sweep(work)
    assert len(passes.fed) == before, "counting ends with the context"


def test_the_floor_feeds_as_many_tokens(small):
    bench = make_bench("medium", 1)
    work = make_work(bench, None, sample=1)
    with torch.no_grad(), counted(bench.codi.loop) as passes:
        sweep(work)
    total = sum(batch * new for batch, new in passes.fed)
    for own_shapes in (False, True):
        fed, read = [], []
        model, head = bench.plain.base_model, bench.plain.lm_head
        handles = [
            model.register_forward_pre_hook(
                lambda m, a, k, fed=fed: fed.append(k["input_ids"].shape), with_kwargs=True
            ),
            head.register_forward_pre_hook(lambda m, a, read=read: read.append(a[0].shape[1])),
        ]
        floor(bench, passes, own_shapes)()
        for handle in handles:
            handle.remove()
        assert sum(batch * new for batch, new in fed) == total
        assert [tuple(shape) for shape in fed] == passes.fed or not own_shapes
        assert read == passes.read


def test_runs_that_disagree_are_not_timed(small, monkeypatch, capsys):
    original = runs.with_hooks
    monkeypatch.setattr(runs, "with_hooks", lambda *given: original(*given) + 1)
    assert benchmark.main(["--shape", "medium", "--repeats", "1", "--sample", "1"]) == 2
    assert "nothing is timed" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--limit", "--repeats", "--sample", "--batch-rows"])
def test_numbers_are_checked(flag, capsys):
    assert benchmark.main([flag, "0"]) == 2
    assert f"{flag} is 0; it must be 1 or more" in capsys.readouterr().err


def test_growth_is_measured_along_every_axis(monkeypatch, tmp_path, capsys):
    axes = {"layers": (1, 2), "latents": (1, 2), "prompt": (8, 12), "pairs": (1, 2)}
    monkeypatch.setattr(growth, "AXES", axes)
    monkeypatch.setattr(growth, "BASE", SMALL)
    out = tmp_path / "growth"
    assert benchmark.main(["--growth", "--repeats", "1", "--out", str(out)]) == 0
    found = json.loads((out / "growth.json").read_text())["axes"]
    assert {name: tuple(p["value"] for p in points) for name, points in found.items()} == axes
    assert [point["cells"] for point in found["pairs"]] == [12, 24]
    assert [point["cells"] for point in found["layers"]] == [6, 12]
    short, long = found["prompt"]
    assert long["tokens"] - short["tokens"] == 2 * 4
    assert set(short["seconds"]) == {"a", "c", "d"}
    page = (out / "growth.html").read_text()
    assert all(name in page for name in axes)


def test_an_evaluation_is_timed_beside_one_question_at_a_time(tmp_path, capsys):
    flags = ["--evaluate", "--limit", "3", "--repeats", "1", "--out", str(tmp_path / "out")]
    assert benchmark.main(flags) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    seconds = found["seconds"]
    assert (found["questions"], found["conditions"]) == (3, 8)
    assert found["ratios"]["one call each"] == seconds["one call each"] / seconds["evaluate"] > 1
    assert "× evaluate" in capsys.readouterr().out
