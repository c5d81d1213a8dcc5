"""Ctrl-C: what is finished is kept and said, whenever it is pressed."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from codi_lens.cli import position_patching
from codi_lens.records.journal import Journal
from codi_lens.records.read import RecordError, load
from tests.models.runs import contents, interrupt_after, refused


def test_ctrl_c_writes_what_there_is_and_says_how_to_go_on(whole, capsys, interrupted):
    said = capsys.readouterr().err
    assert "finishing the batch in flight" in said
    command = f"python -m experiments.position_patching --resume {interrupted}"
    assert said.rstrip().endswith(f"interrupted: 2 of 4 pairs are done; go on with\n  {command}")
    assert "Traceback" not in said
    manifest = json.loads((interrupted / "manifest.json").read_text())
    assert manifest["complete"] is False
    assert (manifest["pairs"]["n"], manifest["pairs"]["n_planned"]) == (2, 4)
    with pytest.raises(RecordError, match=r"holds 2 of 4 pairs, .*; finish it with python -m"):
        load(interrupted)
    part, all_of_it = load(interrupted, incomplete=True), load(whole)
    assert part.pairs == all_of_it.pairs[:2]
    for name, values in part.metrics.items():
        torch.testing.assert_close(
            values, all_of_it.metrics[name][:2], rtol=0, atol=0, equal_nan=True
        )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_program_runs_in_any_thread(flags, tmp_path):
    """Where no signals can be caught."""
    more = [
        "--limit",
        "1",
        "--controls",
        "none",
        "--answers",
        "none",
        "--out",
        str(tmp_path / "run"),
    ]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(position_patching.main, [*flags, *more]).result() == 0


def test_a_fault_after_the_record_is_written_advises_nothing(flags, tmp_path, monkeypatch, capsys):
    def fault(_):
        raise RuntimeError("an odd fault")

    more = ["--limit", "1", "--controls", "none", "--answers", "none", "--out"]
    for moment, advised in (
        ("codi_lens.records.running.remove_parts", False),
        ("codi_lens.plots.page", True),
    ):
        monkeypatch.setattr(moment, fault)
        folder = tmp_path / str(advised)
        said = refused(capsys, *flags, *more, folder)
        assert "error: RuntimeError: an odd fault (--debug shows where it comes from)" in said
        assert (f"--resume {folder}" in said) == advised


def test_a_second_ctrl_c_stops_at_once(flags, whole, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1, times=2)
        assert position_patching.main([*flags, "--out", str(folder)]) == 130
    assert f"go on with\n  python -m experiments.position_patching --resume {folder}" in (
        capsys.readouterr().err
    )
    assert not (folder / "manifest.json").exists()
    assert position_patching.main(["--resume", str(folder)]) == 0
    assert contents(folder) == contents(whole)


def test_ctrl_c_while_the_last_answers_are_decoded(flags, tmp_path, monkeypatch, capsys):
    folder, add = tmp_path / "run", Journal.add_answers

    def pressed(self, *arguments):
        add(self, *arguments)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add_answers", pressed)
        more = ["--batch-rows", "3", "--controls", "none", "--out", str(folder)]
        assert position_patching.main([*flags, *more]) == 130
    assert "interrupted: 4 of 4 pairs are done" in capsys.readouterr().err
    with pytest.raises(RecordError, match="was interrupted"):
        load(folder)
    assert [bool(o.texts) for o in load(folder, incomplete=True).outcomes] == [True] + [False] * 3
    assert position_patching.main(["--resume", str(folder)]) == 0
    assert all(outcome.texts for outcome in load(folder).outcomes)


def test_ctrl_c_before_the_first_pair(flags, tmp_path, monkeypatch, capsys):
    def pressed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("codi_lens.cli.inputs.load_model", pressed)
    assert position_patching.main([*flags, "--out", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"
    assert not (tmp_path / "run").exists()
