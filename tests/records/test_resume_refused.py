"""Going on with a run is refused where it would be another one, with what differs."""

from dataclasses import replace

import pytest

from codi_lens.cli import layer_patching, position_patching
from codi_lens.data.pairs import write_pairs
from codi_lens.records.journal import JOURNAL, Journal
from codi_lens.records.journal_lines import decode, encode
from tests.models.runs import PAIRS, contents, interrupt_after, refused, write_job
from tests.models.tiny import write_tiny


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--mode", "freeze"], "--effect (there total, here direct)"),
        (["--layers", "0"], "--layers (there (0, 2), here (0,))"),
        (["--dtype", "float64"], "--dtype (there float32, here float64)"),
        (["--batch-rows", "2"], "--batch-rows (there 40, here 2)"),
        (["--limit", "3", "--seed", "1"], "--limit (there None, here 3); --seed (there 0, here 1)"),
        (["--out", "elsewhere"], "--out (there"),
    ],
)
def test_flags_that_say_otherwise_are_refused(interrupted, capsys, more, message):
    before = (interrupted / JOURNAL).read_bytes()
    assert message in refused(capsys, "--resume", interrupted, *more)
    assert (interrupted / JOURNAL).read_bytes() == before


def test_flags_that_say_the_same_are_fine(interrupted, whole, flags):
    assert position_patching.main([*flags, "--resume", str(interrupted), "--seed", "0"]) == 0
    assert contents(interrupted) == contents(whole)


def test_other_pairs_or_another_model_in_the_same_place_are_refused(tmp_path, monkeypatch, capsys):
    flags = write_job(tmp_path)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        assert position_patching.main([*flags, "--out", str(tmp_path / "run")]) == 130
    write_pairs(tmp_path / "pairs.json", PAIRS[:3])
    said = refused(capsys, "--resume", tmp_path / "run")
    assert said.endswith("run cannot be resumed: pairs.n (there 4, here 3)\n"), (
        "no digests beside it"
    )
    write_pairs(tmp_path / "pairs.json", [*PAIRS[:3], replace(PAIRS[3], kind="minus")])
    said = refused(capsys, "--resume", tmp_path / "run")
    assert "run cannot be resumed: pairs.digest (there SHA-256 " in said
    write_pairs(tmp_path / "pairs.json", PAIRS)
    write_tiny(tmp_path / "model", seed=14)
    said = refused(capsys, "--resume", tmp_path / "run")
    assert "run cannot be resumed: model.digest (there " in said
    assert "pairs." not in said
    write_tiny(tmp_path / "model", seed=13)
    assert position_patching.main(["--resume", str(tmp_path / "run")]) == 0


def edit_header(folder, change):
    path = folder / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    (header,), _ = decode(lines[0], path)
    change(header)
    path.write_bytes(b"".join([encode(header), *lines[1:]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.update(schema_version=0), "schema_version (there 0, here 2)"),
        (
            lambda header: header["model"].update(dtype="float64"),
            "model.dtype (there float64, here",
        ),
        (lambda header: header["settings"].update(seed=4), "settings.seed (there 4, here 0)"),
        (lambda header: header["versions"].update(torch="1.0"), "versions.torch (there 1.0, here"),
        (
            lambda header: header.update(experiment="layer_patching"),
            "is of another experiment; resume",
        ),
    ],
)
def test_a_journal_of_something_else_is_refused(interrupted, capsys, change, message):
    edit_header(interrupted, change)
    assert message in refused(capsys, "--resume", interrupted)


def test_a_damaged_line_is_named_and_nothing_is_changed(interrupted, capsys):
    path = interrupted / JOURNAL
    damaged = path.read_bytes().replace(b'"pair": 0', b'"pair": 2')
    path.write_bytes(damaged)
    assert f"{path}, line 2 is damaged" in refused(capsys, "--resume", interrupted)
    assert path.read_bytes() == damaged


def test_what_is_no_run_is_refused(tmp_path, interrupted, capsys):
    assert f"{tmp_path} is not a run to resume" in refused(capsys, "--resume", tmp_path)
    said = refused(capsys, "--resume", interrupted, program=layer_patching)
    assert "resume it with python -m experiments.position_patching" in said


def test_a_run_that_another_process_writes_is_left_alone(interrupted, capsys):
    path = interrupted / JOURNAL
    (header, *_), _ = decode(path.read_bytes(), path)
    with Journal(interrupted, header, resume=True):
        said = refused(capsys, "--resume", interrupted)
    assert f"another process is writing {interrupted}; let it finish" in said
