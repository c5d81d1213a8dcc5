"""Going on with a run: what is the same, what is refused, and Ctrl-C."""

import json
import os
import shlex
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from codi_lens.analysis.comparison import TOLERANCE
from codi_lens.cli import layer_patching, position_patching
from codi_lens.data.pairs import write_pairs
from codi_lens.files import write_json
from codi_lens.records.journal import JOURNAL, PARTS, Journal
from codi_lens.records.journal_lines import decode, encode
from codi_lens.records.read import RecordError, load
from tests.models.runs import PAIRS, PROGRAMS, contents, write_job
from tests.models.tiny import write_tiny


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    return write_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    """A run of the main job that was never interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert position_patching.main([*flags, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def ctrl_c_is_not_ignored():
    """As it is for a program that a shell put in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_after(monkeypatch, pairs, times=1):
    """Presses Ctrl-C when the given number of pairs are journaled."""
    add = Journal.add

    def pressed(self, outcome):
        add(self, outcome)
        done = len(list((self.folder / PARTS).iterdir()))
        for _ in range(times if done == pairs else 0):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Journal, "add", pressed)


@pytest.fixture
def interrupted(flags, tmp_path, monkeypatch):
    """A run with Ctrl-C after its second pair."""
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert position_patching.main([*flags, "--out", str(tmp_path / "run")]) == 130
    return tmp_path / "run"


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
    flags += ["--batch-rows", "1", "--answers", "none"]
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
        more = ["--batch-rows", "1", "--out", str(folder)]
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


@pytest.mark.parametrize("name", ["layer_patching", "iterative_patching"])
def test_every_patching_program_goes_on(flags, tmp_path, monkeypatch, name):
    more = ["--controls", "none"] if name == "layer_patching" else ["--answers", "all"]
    more += ["--batch-rows", "1"]
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


def refused(capsys, *arguments, program=position_patching):
    capsys.readouterr()
    assert program.main(list(map(str, arguments))) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


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


def test_the_same_run_twice_gives_the_same_files(flags, whole, tmp_path):
    assert position_patching.main([*flags, "--out", str(tmp_path / "again")]) == 0
    again, first = contents(tmp_path / "again"), contents(whole)
    assert again == first
    assert {name for name in first if name.endswith(".safetensors")} >= {"metrics.safetensors"}


def test_other_batch_sizes_give_the_same_up_to_rounding(flags, whole, tmp_path):
    more = ["--batch-rows", "1", "--out", str(tmp_path / "batched")]
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
