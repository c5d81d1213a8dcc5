"""Comparing runs: laws pass on real records and fail, by name, on doctored ones."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from codi_lens import Pair, Variant
from codi_lens.analysis.comparison import RankCorrelation, rank_correlation, spearman
from codi_lens.analysis.comparison import compare as compare_runs
from codi_lens.cli import compare, iterative_patching, layer_patching, position_patching
from codi_lens.data.pairs import write_pairs
from tests.models.invented import invented_sweep
from tests.models.runs import sign
from tests.models.tiny import write_tiny

PAIRS = [
    Pair(0, Variant("12 plus 30?", 42), Variant("12 plus 31?", 43), operand="b"),
    Pair(1, Variant("one plus two plus 3?", 6), Variant("12 plus 3?", 15), operand="a"),
    Pair(2, Variant("5 plus 6?", 11), Variant("5 plus 7?", 12), operand="b"),
]
PROGRAMS = {"position": position_patching, "layer": layer_patching, "iterative": iterative_patching}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs of all three experiments on one model and its pairs."""
    folder = tmp_path_factory.mktemp("compare")
    model, pairs = write_tiny(folder / "model", seed=13), folder / "pairs.json"
    write_pairs(pairs, PAIRS)
    flags = ["--model", str(model), "--pairs", str(pairs), "--dtype", "float64"]
    for name, program in PROGRAMS.items():
        extra = ["--effect", "all"] if name == "position" else []
        assert program.main([*flags, *extra, "--out", str(folder / name)]) == 0
    return folder


def run(*arguments):
    return compare.main([str(argument) for argument in arguments])


def test_laws_hold_on_real_runs(runs, tmp_path, capsys):
    assert run(*(runs / name for name in PROGRAMS), "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "FAILED" not in printed
    assert "recovery by layer, mean over pairs" in printed
    assert "rank correlation (Spearman) of these, over n layers; – for n < 10" in printed
    assert "–  n = 3   position-wise, largest cell / layer-wise, all positions" in printed
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert {check["name"] for check in found["checks"]} == {
        "baselines agree across runs",
        "parallel = last cumulative iteration",
        "first cumulative iteration = single",
        "first chained iteration = single",
        "parallel = layer-wise run",
        "single = position-wise cells",
    }
    assert all(check["passed"] for check in found["checks"])
    assert len(found["rank_correlation"]) == 6 * 5 / 2  # three runs, the last of four strategies
    assert "iterative, chained, last iteration" in found["profiles"]
    assert all(one == {"rho": None, "n": 3} for one in found["rank_correlation"].values())
    parts = found["effects"]["position_patching recovery"]
    assert set(parts) == {"total", "direct", "indirect", "interaction"}
    assert len(found["top"]["position_patching"]) == 5
    assert (tmp_path / "out" / "comparison.html").stat().st_size > 1000


def test_additivity_is_the_sum_over_the_parallel_patch(runs, tmp_path):
    run(runs / "position", runs / "layer", "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())["additivity"]
    position, layer = (
        json.loads((runs / name / "aggregate_statistics.json").read_text())["groups"]["all"][
            "means"
        ]
        for name in ("position", "layer")
    )
    for label in ("0", "1", "2"):
        singles = sum(position["recovery"]["total"][label].values())
        assert found[label] == pytest.approx(singles / layer["recovery"]["total"][label])


def doctored(runs, tmp_path, name, change):
    """A copy of a run whose dense metrics were changed."""
    copy = tmp_path / name
    copy.mkdir()
    for path in (runs / name).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    from safetensors import safe_open

    with safe_open(copy / "metrics.safetensors", framework="pt") as file:
        metadata = file.metadata()
    tensors = {k: v.clone() for k, v in load_file(copy / "metrics.safetensors").items()}
    change(tensors)
    save_file(tensors, copy / "metrics.safetensors", metadata)
    sign(copy)
    return copy


def shift(key, index):
    def change(tensors):
        tensors[key][index] += 1.0

    return change


@pytest.mark.parametrize(
    ("name", "key", "index", "law"),
    [
        ("layer", "base.logit_diff", 1, "baselines agree"),
        ("iterative", "logit_diff", (0, 3, 1, 2), "parallel = last cumulative"),
        ("iterative", "logit_diff", (0, 2, 1, 0), "first chained iteration = single"),
        ("layer", "logit_diff", (2, 0, 1), "parallel = layer-wise"),
        ("position", "logit_diff", (2, 0, 1, 1), "single = position-wise"),
        ("position", "logit_diff", (0, 0, 0, 0), "single = position-wise"),
    ],
)
def test_a_doctored_run_fails_the_law_that_binds_it(runs, tmp_path, capsys, name, key, index, law):
    changed = doctored(runs, tmp_path, name, shift(key, index))
    folders = [changed if other == name else runs / other for other in PROGRAMS]
    assert run(*folders, "--out", tmp_path / "out") == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
    assert any(law in line for line in failed)


def test_a_value_that_turned_undefined_fails_too(runs, tmp_path):
    def undefine(tensors):
        tensors["logit_diff"][0, 1, 1, 2] = torch.nan

    changed = doctored(runs, tmp_path, "iterative", undefine)
    assert run(runs / "layer", changed, "--out", tmp_path / "out") == 1


def test_runs_that_cannot_be_compared(runs, tmp_path, capsys):
    cases = [
        ([runs / "layer"], "1 run to compare"),
        ([runs / "layer", runs / "layer"], "given twice"),
        ([runs / "layer", tmp_path], "no finished record"),
    ]
    for folders, message in cases:
        assert run(*folders, "--out", tmp_path / "out") == 2
        assert message in capsys.readouterr().err


def test_a_rank_correlation_is_over_the_cells_that_both_have():
    nan = float("nan")
    a = torch.tensor([*range(10), nan])
    assert rank_correlation(a, torch.tensor([*range(2, 11), 90.0, 1.0])).rho == pytest.approx(1)
    assert rank_correlation(a, a.flip(0)) == RankCorrelation(None, 9)
    assert rank_correlation(a, torch.ones(11)) == RankCorrelation(None, 10)


def test_a_layer_without_a_value_has_none_in_the_comparison():
    sweeps = {name: invented_sweep(name) for name in ("position_patching", "layer_patching")}
    for outcome in sweeps["position_patching"].outcomes:
        outcome.metrics["recovery"][:, 1] = torch.nan
        outcome.metrics["logit_diff"][:, 1] = torch.nan
    profile = compare_runs(sweeps, dict.fromkeys(sweeps, "float32")).profiles
    assert profile["position-wise, largest cell"]["1"] is None


def test_spearman_by_hand():
    a = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert spearman(a, a * 10) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    # ranks 0 1 2 3 and 1 0 3 2: 1 − 6·4 / (4·15)
    assert spearman(a, torch.tensor([2.0, 1.0, 4.0, 3.0])) == pytest.approx(0.6)
    # ties share the mean rank: ranks 0.5 0.5 2 3 against 0 1 2 3
    assert spearman(torch.tensor([1.0, 1.0, 2.0, 3.0]), a) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert spearman(a[:1], a[:1]) != spearman(a[:1], a[:1])
