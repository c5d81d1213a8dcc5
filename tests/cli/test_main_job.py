"""The main job as its user runs it: a program, and what it leaves."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from codi_lens import HookedCodi, Site, load_pairs
from codi_lens.cli import position_patching
from codi_lens.model.hooks import replace
from tests.laws.oracle import captured, cell
from tests.models.invented import CELL_METRICS

ROOT = Path(__file__).parents[2]
ORIGINAL_METRICS = {
    "kl_divergence",
    "l2_difference",
    "prediction_change_rate",
    "answer_logit_diff",
    "clean_answer_score",
    "corrupted_answer_score",
}


def run(*arguments):
    command = [sys.executable, "-m", "experiments.position_patching", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """(folder, what was printed) of the main job on five pairs."""
    folder = tmp_path_factory.mktemp("runs") / "job"
    done = run("--limit", 5, "--out", folder, "--dtype", "float64")
    assert done.returncode == 0, done.stderr
    return folder, done


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_it_says_what_it_found_and_where_it_is(job):
    folder, done = job
    assert "layer  position  recovery" in done.stdout
    for name in ("heatmap.html", "manifest.json", "position_patching_results.json"):
        assert str(folder / name) in done.stdout
    assert "pair/s" in done.stderr  # the progress bar
    assert "deprecated" not in done.stdout + done.stderr


def test_results_have_the_schema_of_the_first_study_and_more(job):
    results = read(job[0], "position_patching_results.json")
    pairs = load_pairs("toy")[:5]
    assert [entry["pair_id"] for entry in results] == [pair.pair_id for pair in pairs]
    for entry, pair in zip(results, pairs, strict=True):
        assert entry["clean_question"] == pair.clean.question
        assert entry["corrupted_answer"] == pair.corrupted.answer
        assert entry["base_run"]["correct"]
        assert entry["source_run"]["correct"]
        assert str(pair.clean.answer) in entry["source_run"]["answer_text"]
        cells = entry["layer_position_results"]
        assert len(cells) >= 3
        for row in cells.values():
            assert list(row) == [str(k) for k in range(6)]
            assert all(set(cell) >= set(CELL_METRICS) > ORIGINAL_METRICS for cell in row.values())


def test_cells_equal_one_run_per_cell_on_the_embedded_model(job):
    """The printed JSON against the plain oracle, in float64."""
    codi = HookedCodi.from_pretrained("toy", dtype=torch.float64)
    results = read(job[0], "position_patching_results.json")
    for index, (layer, position) in ((0, (0, 1)), (1, (1, 3)), (4, (2, 2)), (4, (1, 5))):
        pair = load_pairs("toy")[index]
        site = Site(f"blocks.{layer}.hook_resid_post", position)
        hooks = [(site, replace(captured(codi, pair.clean.question, site, 6)))]
        expected = cell(codi, pair, hooks)
        found = results[index]["layer_position_results"][str(layer)][str(position)]
        for name in CELL_METRICS:
            assert found[name] == pytest.approx(expected[name], abs=1e-9), name


def test_aggregates_follow_from_the_results(job):
    results, aggregates = (
        read(job[0], name)
        for name in ("position_patching_results.json", "aggregate_statistics.json")
    )

    def mean(metric, layer, position):
        values = [entry["layer_position_results"][layer][position][metric] for entry in results]
        return sum(values) / len(values)

    for layer, row in aggregates["layer_position_kl_means"].items():
        for position, value in row.items():
            assert value == pytest.approx(mean("kl_divergence", layer, position), abs=1e-12)
            difference = aggregates["layer_position_ans_diff_means"][layer][position]
            assert difference == pytest.approx(mean("answer_logit_diff", layer, position))
    top = aggregates["top_5_critical"]
    assert [set(cell) >= {"layer", "position", "kl_div", "ans_diff"} for cell in top] == [True] * 5
    assert [cell["kl_div"] for cell in top] == sorted((c["kl_div"] for c in top), reverse=True)
    assert aggregates["groups"]["all"]["n"] == 5
    assert aggregates["groups"]["competent"]["n"] == 5


def test_recovery_is_a_ratio_of_sums(job):
    results = read(job[0], "position_patching_results.json")
    whole = read(job[0], "aggregate_statistics.json")["groups"]["all"]
    kept = [e for e in results if e["source_run"]["metrics"]["recovery"] is not None]
    assert len(kept) == whole["n_recovery"]
    gaps = [
        e["source_run"]["metrics"]["logit_diff"] - e["base_run"]["metrics"]["logit_diff"]
        for e in kept
    ]
    for layer, row in whole["means"]["recovery"]["total"].items():
        for position, value in row.items():
            gained = [
                e["layer_position_results"][layer][position]["logit_diff"]
                - e["base_run"]["metrics"]["logit_diff"]
                for e in kept
            ]
            assert value == pytest.approx(sum(gained) / sum(gaps), abs=1e-9)


def test_activations_are_those_of_the_clean_runs(job):
    codi = HookedCodi.from_pretrained("toy", dtype=torch.float64)
    with safe_open(job[0] / "clean_activations.safetensors", framework="pt") as file:
        saved = file.get_tensor("clean_activations")
        assert json.loads(file.metadata()["axes"]) == ["pair", "layer", "position"]
    assert saved.shape == (5, codi.model.cfg.n_layers, 6, codi.model.cfg.d_model)
    pair = load_pairs("toy")[3]
    expected = captured(codi, pair.clean.question, Site("blocks.1.hook_resid_post", 4), 6)
    torch.testing.assert_close(saved[3, 1, 4], expected, atol=1e-9, rtol=0)


def test_the_manifest_says_what_was_run(job):
    manifest = read(job[0], "manifest.json")
    assert manifest["settings"]["num_latents"] == 6
    assert manifest["config"]["limit"] == 5
    assert manifest["config"]["seed"] == 0
    assert re.fullmatch("[0-9a-f]{64}", manifest["model"]["digest"])
    assert re.fullmatch("[0-9a-f]{64}", manifest["pairs"]["digest"])
    assert manifest["model"]["dtype"] == "float64"
    assert {"torch", "transformer-lens", "transformers", "peft", "python"} <= set(
        manifest["versions"]
    )


def test_the_page_needs_no_network_and_holds_the_figures(job):
    page = (job[0] / "heatmap.html").read_text()
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=[\"']?(https?:)?//", page)
    for name in ("recovery", "by-operand", "kl"):
        assert f'id="{name}"' in page


def test_cells_can_be_chosen(tmp_path):
    out = tmp_path / "few"
    done = run(
        "--limit", 2, "--layers", "1-2", "--positions", "0,3", "--mode", "freeze", "--out", out
    )
    assert done.returncode == 0, done.stderr
    cells = read(out, "position_patching_results.json")[0]["layer_position_results"]
    assert {layer: list(row) for layer, row in cells.items()} == {"1": ["0", "3"], "2": ["0", "3"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "./no/such"], "no/such"),
        (["--pairs", "missing.json"], "missing.json"),
        (["--limit", "0"], "--limit is 0; it must be 1 or more"),
        (["--layers", "77"], "give different numbers from 0 to"),
        (["--positions", "6"], "give different numbers from 0 to 5"),
        (["--num-latents", "-2"], "'num_latents' is -2"),
    ],
)
def test_input_that_cannot_be_used_ends_in_one_message(tmp_path, capsys, arguments, message):
    assert position_patching.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.startswith("error: ")
    assert not list((tmp_path / "out").glob("*"))


def test_a_user_error_has_no_traceback():
    done = run("--limit", 0)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_folder_with_something_in_it_is_not_written_to(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert position_patching.main(["--limit", "1", "--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
