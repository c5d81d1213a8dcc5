"""Going on with a run: to the same files, from wherever it was stopped."""

import json
import shlex
import shutil

import pytest
import torch
from safetensors.torch import load_file

from codi_lens.analysis.comparison import TOLERANCE
from codi_lens.cli import position_patching
from codi_lens.files import write_json
from codi_lens.records.journal import JOURNAL, PARTS
from codi_lens.records.read import load
from tests.models.runs import PAIRS, PROGRAMS, contents, interrupt_after, refused, write_job


def test_an_interrupted_run_goes_on_to_equal_files(interrupted, whole, capsys):
    capsys.readouterr()
    assert position_patching.main(["--resume", str(interrupted)]) == 0
    assert "going on: 2 of 4 pairs are there" in capsys.readouterr().err
    assert contents(interrupted) == contents(whole)
    assert position_patching.main(["--resume", str(interrupted)]) == 0
    assert "is finished; there is nothing to go on with" in capsys.readouterr().out
    assert contents(interrupted) == contents(whole)


def test_a_finished_run_whose_files_are_gone_or_changed_is_not_called_finished(
    whole, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for name in json.loads((run / "manifest.json").read_text())["files"]:
        content = (run / name).read_bytes()
        for damaged, message in (
            (None, "cannot be read (No such file or directory); run the experiment again"),
            (
                content[:-1],
                f"has other content than the run wrote ({len(content) - 1} bytes, "
                f"{len(content)} were written)",
            ),
            (content[:-1] + b"?", "has other content than the run wrote; run"),
        ):
            (run / name).unlink() if damaged is None else (run / name).write_bytes(damaged)
            assert f"{run} is damaged: {name} {message}" in refused(capsys, "--resume", run)
        (run / name).write_bytes(content)
    (run / "manifest.json").write_bytes(b"")
    assert f"cannot read {run / 'manifest.json'}" in refused(capsys, "--resume", run)


def test_parts_that_are_gone_are_named_with_the_way_to_run_their_pairs_again(
    interrupted, whole, capsys
):
    shutil.rmtree(interrupted / PARTS)
    said = refused(capsys, "--resume", interrupted)
    assert "0.safetensors, the tensors of a pair: No such file or directory" in said
    assert "pair 0 runs again without its line in journal.jsonl and all behind it" in said
    path = interrupted / JOURNAL
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    assert position_patching.main(["--resume", str(interrupted)]) == 0
    assert contents(interrupted) == contents(whole)


def test_relative_paths_of_the_first_call_are_found_from_another_folder(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "a place").mkdir()
    write_job(tmp_path)
    monkeypatch.chdir(tmp_path / "a place")
    flags = ["--model", "../model", "--pairs", "../pairs.json", "--controls", "none"]
    flags += ["--batch-rows", "20", "--answers", "none"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        assert position_patching.main([*flags, "--out", "my run"]) == 130
    command = shlex.split(capsys.readouterr().err.rpartition("go on with\n")[2])
    assert command[:3] == ["python", "-m", "experiments.position_patching"]
    assert command[3:] == ["--resume", "my run"]
    again = ["--resume", "my run", "--limit", "4", "--model", str(tmp_path / "model")]
    assert "--limit (there None, here 4)\n" in refused(capsys, *again)
    monkeypatch.chdir(tmp_path)
    assert "--pairs (there" in refused(capsys, "--resume", "a place/my run", "--pairs", "a place")
    again = ["--resume", "a place/my run", "--model", "model", "--threads", "2"]
    assert position_patching.main(again) == 0
    torch.set_num_threads(1)
    assert load(tmp_path / "a place" / "my run").pairs == PAIRS


@pytest.mark.parametrize("name", ["layer_patching", "iterative_patching"])
def test_every_patching_program_goes_on(flags, tmp_path, monkeypatch, name):
    more = ["--controls", "none"] if name == "layer_patching" else ["--answers", "all"]
    more += ["--batch-rows", "12"]
    for folder in ("whole", "run"):
        with monkeypatch.context() as patch:
            if folder == "run":
                interrupt_after(patch, 3)
            code = PROGRAMS[name].main([*flags, *more, "--out", str(tmp_path / folder)])
        assert code == (130 if folder == "run" else 0)
    assert PROGRAMS[name].main(["--resume", str(tmp_path / "run")]) == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_activations_of_an_earlier_run_are_used_again_when_going_on(
    flags, whole, tmp_path, monkeypatch
):
    more = ["--activations", str(whole), "--answers", "none", "--out", str(tmp_path / "run")]
    more += ["--batch-rows", "12"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        assert PROGRAMS["iterative_patching"].main([*flags, *more]) == 130
    saved = whole / "clean_activations.safetensors"
    content = saved.read_bytes()
    saved.write_bytes(content[:-4] + b"\x00\x00\x00\x01")
    try:
        assert PROGRAMS["iterative_patching"].main(["--resume", str(tmp_path / "run")]) == 2
    finally:
        saved.write_bytes(content)
    assert PROGRAMS["iterative_patching"].main(["--resume", str(tmp_path / "run")]) == 0


def test_the_same_run_twice_gives_the_same_files(flags, whole, tmp_path):
    assert position_patching.main([*flags, "--out", str(tmp_path / "again")]) == 0
    again, first = contents(tmp_path / "again"), contents(whole)
    assert again == first
    assert {name for name in first if name.endswith(".safetensors")} >= {"metrics.safetensors"}


def test_other_batch_sizes_give_the_same_up_to_rounding(flags, whole, tmp_path):
    more = ["--batch-rows", "7", "--out", str(tmp_path / "batched")]
    assert position_patching.main([*flags, *more]) == 0
    one, other = (load_file(f / "metrics.safetensors") for f in (whole, tmp_path / "batched"))
    assert list(one) == list(other)
    for name, values in one.items():
        assert torch.equal(values.isnan(), other[name].isnan()), name
        largest = float((values - other[name]).abs().nan_to_num().max())
        assert largest <= TOLERANCE["float32"], (name, largest)


def test_json_files_appear_together_or_not_at_all(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({tmp_path / "a.json": {"fine": 1}, tmp_path / "b.json": {"bad": float("nan")}})
    assert not list(tmp_path.iterdir())
