"""Records that cannot be read: each says what is wrong, and none is taken for another."""

import json

import pytest

from codi_lens.records.read import (
    GENERATED,
    METRICS,
    REQUIRED,
    RecordError,
    load,
    read_manifest,
    verify,
)
from codi_lens.records.running import is_finished
from tests.models.recorded import edit
from tests.models.runs import sign


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
