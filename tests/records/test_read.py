"""Records: what is written is what was measured, and reads back as it was."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from codi_lens import HookedCodi, UserError
from codi_lens.patching.outcomes import sweep_pairs
from codi_lens.patching.similarity import SIMILARITIES
from codi_lens.patching.sweep import make_settings, make_sweep
from codi_lens.records.manifest import differences, tensors_digest
from codi_lens.records.read import (
    GENERATED,
    METRICS,
    REQUIRED,
    RecordError,
    load,
    read_manifest,
    verify,
)
from codi_lens.records.reuse import reusable_activations
from codi_lens.records.running import is_finished
from codi_lens.records.write import pair_entry, write_record
from tests.models.invented import CELL_METRICS
from tests.models.runs import PAIRS, sign
from tests.models.tiny import write_tiny

EXPERIMENTS = {
    "position_patching": {
        "effect": "all",
        "controls": True,
        "layers": ["thought", 0, 2],
        "positions": ["bot", 1, 2, "eot"],
    },
    "layer_patching": {"controls": True, "direction": "noise"},
    "iterative_patching": {"layers": [0, 2]},
}


@pytest.fixture(scope="module")
def codi(tmp_path_factory):
    folder = write_tiny(tmp_path_factory.mktemp("model"), seed=13)
    return HookedCodi.from_pretrained(folder, dtype=torch.float64)


def measure(codi, experiment, **options):
    settings = make_settings(codi, **(EXPERIMENTS[experiment] | options))
    pairs = [*PAIRS, replace(PAIRS[0], pair_id=9, corrupted=replace(PAIRS[0].corrupted, answer=42))]
    outcomes = sweep_pairs(experiment, codi, pairs, settings, decode="all")
    return make_sweep(experiment, codi, settings, list(outcomes))


@pytest.fixture(scope="module", params=EXPERIMENTS)
def recorded(request, codi, tmp_path_factory):
    """(sweep in memory, folder of its record)."""
    folder = tmp_path_factory.mktemp("record")
    sweep = measure(codi, request.param)
    write_record(folder, sweep, codi, {"pairs": "mine"}, pages={"heatmap.html": "<p>"})
    return sweep, folder


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


def test_the_manifest_knows_what_it_is_of(recorded, codi):
    sweep, folder = recorded
    manifest = read_manifest(folder)
    assert manifest["complete"] is True
    assert manifest["config"] == {"pairs": "mine"}
    assert manifest["model"]["digest"] == codi.digest
    assert manifest["pairs"]["n"] == manifest["pairs"]["n_planned"] == 5
    assert manifest["pairs"]["n_per_group"]["same_answer"] == 1
    assert manifest["peak_memory_bytes"] > 2**20
    assert manifest["settings"]["layers"] == list(sweep.settings.layers)


# -- records that cannot be read -----------------------------------------------------------------


@pytest.fixture
def record(codi, tmp_path):
    sweep = measure(codi, "iterative_patching", layers=[1])
    write_record(tmp_path, sweep, codi, {})
    return tmp_path


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_without_a_manifest_is_no_record(tmp_path):
    with pytest.raises(RecordError, match=r"holds no finished record: there is no manifest\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experiment": []}, r"no experiment \[\]; known are position_patching"),
        ({"settings": [1]}, r"the record in .* is damaged \(AttributeError: "),
        ({"schema_version": 99}, "has schema version 99; this code reads 1 and 2"),
        (
            {"experiment": "../../elsewhere/x"},
            r"no experiment '\.\./\.\./elsewhere/x'; known are position",
        ),
        (
            {"complete": False},
            "holds 5 of 5 pairs, as the run was interrupted; run the experiment ag",
        ),
    ],
)
def test_manifests_that_are_refused(record, changes, message):
    edit(record / "manifest.json", **changes)
    with pytest.raises(RecordError, match=message):
        load(record)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_manifest_that_lacks_something_is_refused(record, name):
    manifest = json.loads((record / "manifest.json").read_text())
    del manifest[name]
    (record / "manifest.json").write_text(json.dumps(manifest))
    for read in (load, read_manifest):
        with pytest.raises(RecordError, match=rf"manifest\.json is damaged: it has no {name}$"):
            read(record)


def test_files_that_are_damaged_or_gone_are_named(record):
    results = record / "iterative_patching_results.json"
    paths = [record / METRICS, results, record / GENERATED, record / "manifest.json"]
    for path in (*paths, record / "clean_activations.safetensors"):
        content = path.read_bytes()
        for damaged in (content[: len(content) // 2], content[:-2] + b"  ", b"", None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            if path.name != "manifest.json" or damaged in (b"", content[: len(content) // 2]):
                with pytest.raises(RecordError, match=path.name):
                    load(record)
        path.write_bytes(content)
    assert len(load(record).pairs) == 5


def test_what_does_not_fit_together_is_no_record_even_where_its_digests_are_right(record):
    results = record / "iterative_patching_results.json"
    entries = json.loads(results.read_text())
    for content, message in (
        (json.dumps(entries[1:]), r"results\.json and metrics\.safetensors are not of the same"),
        (json.dumps(entries)[:-9], r"cannot read .*iterative_patching_results\.json"),
        (json.dumps([{}] * 5), r"is damaged \(KeyError: 'pair_id'\); run the experiment again"),
    ):
        results.write_text(content)
        sign(record)
        with pytest.raises(RecordError, match=message):
            load(record)


def test_what_is_listed_must_be_there_and_a_records_own_files_must_be_listed(record):
    """Whoever reads it: where a figure is gone, or the list was emptied, more may be gone."""
    listed = read_manifest(record)["files"]
    for name in listed:
        edit(record / "manifest.json", files={k: v for k, v in listed.items() if k != name})
        with pytest.raises(RecordError, match=f"its manifest does not list {name}"):
            load(record)
    edit(record / "manifest.json", files={})
    for read in (load, is_finished):
        with pytest.raises(RecordError, match=r"its manifest does not list aggregate_statistics"):
            read(record)
    edit(record / "manifest.json", files=listed)
    path = record / "aggregate_statistics.json"  # which reading does not need
    for change, fault in (
        (path.read_bytes().swapcase(), "has other content than the run wrote; run"),
        (None, r"cannot be read \(No such file"),
    ):
        path.unlink() if change is None else path.write_bytes(change)
        with pytest.raises(RecordError, match=rf"aggregate_statistics\.json {fault}"):
            load(record)


def test_every_file_of_a_record_is_in_its_manifest(recorded):
    _, folder = recorded
    verify(folder, read_manifest(folder))
    listed = read_manifest(folder)["files"]
    assert sorted([*listed, "manifest.json"]) == sorted(path.name for path in folder.iterdir())


# -- activations used again ----------------------------------------------------------------------


def test_saved_activations_give_the_same_results(codi, record):
    settings = make_settings(codi, layers=[1])
    sweep = load(record)
    saved = reusable_activations(record, codi, sweep.pairs, settings)
    again = sweep_pairs("iterative_patching", codi, sweep.pairs, settings, saved=saved)
    for outcome, expected in zip(again, sweep.outcomes, strict=True):
        for name, values in expected.metrics.items():
            torch.testing.assert_close(
                outcome.metrics[name], values, atol=1e-9, rtol=0, equal_nan=True
            )


def test_saved_activations_are_what_is_patched_in(codi, record):
    """Other values give other results: the file is read, and not the run's own source."""
    settings, pairs = make_settings(codi, layers=[1]), load(record).pairs
    saved = [values + 1 for values in reusable_activations(record, codi, pairs, settings)]
    again = next(sweep_pairs("iterative_patching", codi, pairs, settings, saved=saved))
    change = again.metrics["kl_divergence"] - load(record).outcomes[0].metrics["kl_divergence"]
    assert change.nan_to_num().abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_latents": 2}, r"num_latents \(there 3, here 2\)"),
        ({"site": "resid_pre"}, r"site \(there resid_post, here resid_pre\)"),
        ({"direction": "noise"}, r"direction \(there denoise, here noise\)"),
        ({"layers": [0, 1]}, r"layers \(there \[1\], here \[0, 1\]\)"),
        ({"positions": [0]}, r"positions \(there \[0, 1, 2\], here \[0\]\)"),
    ],
)
def test_activations_of_other_settings_are_refused(codi, record, options, message):
    settings = make_settings(codi, **({"layers": [1]} | options))
    with pytest.raises(UserError, match=f"the activations of .* cannot be used: .*{message}"):
        reusable_activations(record, codi, load(record).pairs, settings)


def test_activations_of_other_pairs_models_and_dtypes_are_refused(codi, record, tmp_path_factory):
    settings, pairs = make_settings(codi, layers=[1]), load(record).pairs
    with pytest.raises(UserError, match=r"cannot be used: 5 pairs there, 4 here$"):
        reusable_activations(record, codi, pairs[:-1], settings)
    changed = [replace(pairs[0], kind="other"), *pairs[1:]]
    with pytest.raises(UserError, match=r"1 of 5 pairs are others there \(here: pairs 0\)$"):
        reusable_activations(record, codi, changed, settings)
    folder = write_tiny(tmp_path_factory.mktemp("other"), seed=14)
    other = HookedCodi.from_pretrained(folder)
    with pytest.raises(
        UserError, match=r"dtype \(there float64, here float32\); model digest \(th"
    ):
        reusable_activations(record, other, pairs, settings)


def test_settings_that_activations_do_not_depend_on_may_differ(codi, record):
    settings = make_settings(codi, layers=[1], effect="direct", min_gap=0.0, seed=3, controls=True)
    assert len(reusable_activations(record, codi, load(record).pairs, settings)) == 5


def test_activations_of_an_unfinished_run_are_refused(codi, record):
    edit(record / "manifest.json", complete=False)
    with pytest.raises(RecordError, match="was interrupted"):
        reusable_activations(record, codi, PAIRS, make_settings(codi, layers=[1]))


def test_differences_are_named_down_to_the_field():
    there = {"a": 1, "m": {"x": 1, "y": 2}, "gone": 0}
    here = {"a": 1, "m": {"x": 1, "y": 3}}
    assert list(differences(there, here)) == ["gone (there 0, here None)", "m.y (there 2, here 3)"]


def test_the_digest_of_tensors_sees_every_bit():
    values = torch.arange(4, dtype=torch.bfloat16)
    assert tensors_digest([values]) == tensors_digest([values.clone()])
    assert tensors_digest([values]) != tensors_digest([values + torch.tensor([0, 0, 0, 1.0])])
