"""Records: what is written is what was measured, and reads back as it was."""

import json

import torch
from safetensors.torch import load_file

from codi_lens.patching.similarity import SIMILARITIES
from codi_lens.records.read import (
    load,
)
from codi_lens.records.write import pair_entry, write_record
from tests.models.invented import CELL_METRICS


def same(one, other):
    return (
        one.dtype == other.dtype
        and torch.equal(one.isnan(), other.isnan())
        and torch.equal(one.nan_to_num(), other.nan_to_num())
    )


def test_a_record_reads_back_as_the_sweep_that_it_is_of(recorded):
    sweep, folder = recorded
    back = load(folder)
    for name in ("experiment", "settings", "axes", "num_layers", "empty_stem", "pairs"):
        assert getattr(back, name) == getattr(sweep, name), name
    assert set(back.metrics) == set(sweep.metrics)
    for name in sweep.metrics:
        assert same(back.values(name), sweep.values(name)), name
    for found, expected in zip(back.outcomes, sweep.outcomes, strict=True):
        assert found.texts == expected.texts
        assert found.donor == expected.donor
        assert torch.equal(found.activations, expected.activations)
        assert (found.generated is None) == (expected.generated is None)
        assert expected.generated is None or same(found.generated, expected.generated)
        for side in ("base", "source"):
            run, wanted = getattr(found, side), getattr(expected, side)
            assert (run.text, run.correct) == (wanted.text, wanted.correct)
            assert set(run.metrics) == set(wanted.metrics)
            assert all(repr(run.metrics[k]) == repr(v) for k, v in wanted.metrics.items())
    assert torch.equal(back.structural_zeros(), sweep.structural_zeros())


def test_a_record_written_again_from_what_was_read_is_the_same(recorded, codi, tmp_path):
    _, folder = recorded
    write_record(tmp_path, load(folder), codi, {"pairs": "mine"}, pages={"heatmap.html": "<p>"})
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in set(names) - {"manifest.json"}:
        one, other = ((f / name).read_bytes() for f in (folder, tmp_path))
        if name.endswith(".json"):
            one, other = json.loads(one), json.loads(other)
        assert one == other, name


def cells_of(entry, sweep):
    """{cell of the main variant: metrics} of a pair's entry, from wherever they stand in it."""
    names = {
        "position_patching": "layer_position_results",
        "layer_patching": "layer_patching_results",
        "iterative_patching": "iterative_patching_results",
    }
    names_of_axes = ("effect", "row", "column")
    if sweep.experiment.has_controls:  # the main effect alone stands under the key
        names_of_axes = names_of_axes[1:]
    if len(sweep.experiment.cell_names) == 1:
        names_of_axes = names_of_axes[:-1]
    axes = [sweep.axes[name] for name in names_of_axes]
    prefix = (0,) if sweep.experiment.has_controls else ()
    found = {}

    def walk(below, rest, cell):
        if not rest:
            found[cell if len(cell) == 3 else (*cell, 0)] = below
            return
        for i, label in enumerate(rest[0]):
            if str(label) in below:
                walk(below[str(label)], rest[1:], (*cell, i))

    for part in (entry[names[sweep.experiment.name]], entry.get("extra_results", {})):
        walk(part, axes, prefix)
    return found


def test_every_cell_of_the_json_is_the_measured_one(recorded):
    sweep, folder = recorded
    entries = json.loads((folder / f"{sweep.experiment.name}_results.json").read_text())
    for entry, outcome in zip(entries, sweep.outcomes, strict=True):
        cells = cells_of(entry, sweep)
        main = outcome.metrics["kl_divergence"]
        main = main[0] if sweep.experiment.has_controls else main
        assert len(cells) == int(main.isfinite().sum())
        for cell, metrics in cells.items():
            assert set(metrics) - {"answer_text"} >= set(CELL_METRICS)
            for name, value in metrics.items():
                if name == "answer_text":
                    assert value == outcome.texts[cell]
                    continue
                measured = float(outcome.metrics[name][cell])
                assert value == (None if measured != measured else measured), (name, cell)


def test_names_and_numbers_stand_apart_in_a_map(codi, recorded):
    sweep, _ = recorded
    entry = pair_entry(sweep.outcomes[0], sweep)
    if sweep.experiment.name == "position_patching":
        assert {row: list(e) for row, e in entry["layer_position_results"].items()} == {
            "0": ["1", "2"],
            "2": ["1", "2"],
        }
        assert list(entry["extra_results"]) == ["thought", "0", "2"]
        assert list(entry["extra_results"]["0"]) == ["bot", "eot"]
        assert list(entry["effects"]) == [
            "direct",
            "indirect",
            "identity",
            "resample",
            "random_direction",
        ]
    elif sweep.experiment.name == "iterative_patching":
        rows = entry["iterative_patching_results"]
        assert list(rows["chained"]["0"]) == ["0", "1", "2"]
        assert list(rows["parallel"]["0"]) == ["2"]
        assert set(rows["chained"]["0"]["0"]) >= set(SIMILARITIES)
        assert rows["chained"]["0"]["2"]["similarity_to_clean"] is None
    else:
        assert list(entry["layer_patching_results"]) == ["0", "1", "2"]
        assert list(entry["effects"]) == ["identity", "resample", "random_direction"]


def test_pairs_with_the_same_answer_have_nulls_where_nothing_is_defined(recorded):
    sweep, folder = recorded
    entry = json.loads((folder / f"{sweep.experiment.name}_results.json").read_text())[-1]
    assert entry["same_answer"] is True
    for cell in cells_of(entry, sweep).values():
        assert cell["recovery"] is cell["logit_diff"] is None
        assert cell["kl_divergence"] is not None


def test_activations_are_in_the_file_of_the_side_that_they_come_from(recorded):
    sweep, folder = recorded
    source = "corrupted" if sweep.settings.direction == "noise" else "clean"
    saved = load_file(folder / f"{source}_activations.safetensors")
    stacked = torch.stack([outcome.activations for outcome in sweep.outcomes])
    assert torch.equal(saved[f"{source}_activations"], stacked)
    assert len(list(folder.glob("*_activations.safetensors"))) == 1 + (
        sweep.experiment.name == "iterative_patching"
    )
