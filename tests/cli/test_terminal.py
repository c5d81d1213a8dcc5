"""Programs where the terminal, the environment or the machine is not what they would wish for."""

import io
import os
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from codi_lens.cli import flags, position_patching, prepare_pairs
from codi_lens.cli.folders import fresh_folder
from codi_lens.cli.program import ANNOUNCEMENTS, Program
from codi_lens.cli.terminal import Stream
from codi_lens.data.pairs import Pair, Variant, load_pairs, write_pairs
from codi_lens.records.processes import Processes, together
from codi_lens.records.read import load
from codi_lens.threads import NARROW, VARIABLES, choose_threads

ROOT = Path(__file__).parents[2]
LAUNCHED = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch):
    for name in (*LAUNCHED, *VARIABLES):
        monkeypatch.delenv(name, raising=False)


def write_job(folder):
    folder.mkdir(exist_ok=True)
    same = Variant("Wie viele Äpfel? \u2028 三", 3)
    write_pairs(folder / "pairs.json", [*load_pairs("toy")[:3], Pair(99, same, same)])
    return ["prepare_pairs", folder / "pairs.json", "--out", folder / "out"]


def shell(line, *words, **variables):
    """Runs a line of shell with a program as "$@"."""
    command = [sys.executable, "-m", f"experiments.{words[0]}", *map(str, words[1:])]
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line, "bash", *command],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "line",
    [
        '"$@" | true',
        '"$@" --debug 2>&1 | true',
        '"$@" >&- 2>&-',
        'LC_ALL=C PYTHONUTF8=0 "$@"',
    ],
)
def test_output_that_nobody_reads_or_can_show_ends_nothing(tmp_path, line):
    done = shell(line, *write_job(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(load_pairs(tmp_path / "out")) == 4


FULL = "error: cannot write to standard output: No space left on device; the program went on"


def test_a_full_disk_behind_the_output_is_said_and_so_is_what_was_kept_where(tmp_path):
    for unbuffered in ("", "1"):  # whether the fault is met at the end or at the first word
        job = write_job(tmp_path / unbuffered)
        done = shell('"$@" > /dev/full', *job, PYTHONUNBUFFERED=unbuffered)
        assert done.returncode == 2
        assert done.stderr.startswith(FULL)
        assert done.stderr.endswith(f"written to {job[-1]}\n")
        assert len(load_pairs(job[-1])) == 4


@pytest.mark.parametrize(
    "line",
    [
        '"$@" --help > /dev/full',
        '"$1" -c "from codi_lens.cli.main import main; main()" > /dev/full',
    ],
)
def test_a_full_disk_behind_help_is_said_too(line):
    done = shell(line, "prepare_pairs")
    assert (done.returncode, done.stderr.startswith(FULL)) == (2, True)
    assert "Traceback" not in done.stderr


def test_a_full_disk_behind_the_messages_ends_nothing(tmp_path):
    done = shell('"$@" --debug 2> /dev/full', *write_job(tmp_path))
    assert (done.returncode, len(load_pairs(tmp_path / "out"))) == (0, 4)
    with open("/dev/full", "w") as full:
        stream = Stream(full)
        print("pair 1 of 60", file=stream, flush=True)
        print("pair 2 of 60", file=stream, flush=True)
        assert stream.lost == "pair 1 of 60\npair 2 of 60\n"


def test_a_run_whose_table_cannot_be_shown_says_where_its_record_is(tmp_path):
    out = tmp_path / "out"
    few = ("--limit", "1", "--layers", "0", "--positions", "0", "--controls", "none")
    done = shell('"$@" > /dev/full', "position_patching", "--out", out, *few)
    assert done.returncode == 2
    told = done.stderr.split(FULL)[1]
    assert all(f"  {out / name}\n" in told for name in ("heatmap.html", "manifest.json"))
    assert "Traceback" not in done.stderr
    assert len(load(out).outcomes) == 1


def test_a_text_that_the_terminal_cannot_encode_is_shown_in_part(monkeypatch, tmp_path):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stderr", shown)
    missing = tmp_path / "Äpfel.json"
    assert prepare_pairs.main([str(missing), "--out", str(tmp_path / "out")]) == 2
    assert f"{tmp_path}/?pfel.json: No such file".encode() in shown.buffer.getvalue()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, ""),
        ({"WORLD_SIZE": ""}, ""),
        ({"WORLD_SIZE": "1", "RANK": ""}, ""),
        ({"RANK": "3"}, ""),
        ({"WORLD_SIZE": "2"}, "note: WORLD_SIZE is set, but not RANK, MASTER_PORT, MASTER_ADDR"),
        (
            {"WORLD_SIZE": "2", "RANK": "0"},
            "note: WORLD_SIZE is set, but not MASTER_PORT, MASTER_A",
        ),
    ],
)
def test_what_another_program_left_in_the_environment_is_no_launcher(
    monkeypatch, capsys, variables, message
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with together() as here:
        assert here == Processes(_meetings=here._meetings)
    said = capsys.readouterr().err
    assert said.startswith(message)
    assert bool(said) == bool(message)


@pytest.mark.parametrize("wrong", [{"RANK": "2"}, {"WORLD_SIZE": "two"}, {"LOCAL_RANK": "-1"}])
def test_an_environment_of_no_possible_processes_is_named(monkeypatch, wrong, tmp_path, capsys):
    sound = dict(zip(LAUNCHED, ("2", "0", "0", "localhost", "29500"), strict=True))
    for name, value in (sound | wrong).items():
        monkeypatch.setenv(name, value)
    assert position_patching.main(["--out", str(tmp_path / "out")]) == 2
    ((name, value),) = wrong.items()
    assert f"{name}={value}" in capsys.readouterr().err


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: fresh_folder(None, "run"), range(40)))
    assert len(set(folders)) == 40
    assert all(re.fullmatch(r"results/run-\d{8}-\d{6}(-\d+)?", str(path)) for path in folders)


def test_a_leading_tilde_is_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_job(tmp_path)
    write_pairs(Path("~/again.json"), load_pairs("~/pairs.json"))
    assert load_pairs(tmp_path / "again.json") == load_pairs("~/pairs.json")
    assert prepare_pairs.main(["~/pairs.json", "--out=~/out"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir())[0] == "pairs.json"
    assert not (tmp_path / "~").exists()
    assert flags.path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


def test_a_byte_order_mark_is_no_part_of_the_pairs(tmp_path):
    write_job(tmp_path)
    path = tmp_path / "pairs.json"
    marked = tmp_path / "marked.json"
    marked.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_pairs(marked) == load_pairs(path)


@pytest.mark.parametrize(
    ("d_model", "variables", "asked", "threads"),
    [
        (NARROW - 1, {}, None, 1),
        (NARROW, {}, None, 3),
        (NARROW - 1, {"OMP_NUM_THREADS": "3"}, None, 3),
        (NARROW - 1, {"MKL_NUM_THREADS": "3", "OMP_NUM_THREADS": ""}, None, 3),
        (NARROW - 1, {"OMP_NUM_THREADS": ""}, None, 1),
        (NARROW, {}, 2, 2),
        (NARROW - 1, {"OMP_NUM_THREADS": "3"}, 2, 2),
    ],
)
def test_threads_are_as_asked_or_as_the_matrices_need(
    monkeypatch, d_model, variables, asked, threads
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert choose_threads(d_model, asked) == torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--threads", "0"], "--threads is 0; it must be 1 or more"),
        (["--threads", "100000"], "--threads is 100000; it must be 1024 or less"),
        (["--limit", str(10**30)], f"--limit is {10**30}; it must be 9223372036854775807 or less"),
    ],
)
def test_numbers_out_of_all_proportion(tmp_path, capsys, given, message):
    assert position_patching.main([*given, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_a_range_longer_than_any_model_is_refused_before_it_is_counted():
    with pytest.raises(Exception, match="is more than any model has"):
        flags.labels("0-99999999999999999999999")


def test_programs_show_no_announcements_of_other_packages():
    def program(_):
        for kind in (*ANNOUNCEMENTS, UserWarning):
            warnings.warn("old", kind, stacklevel=1)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert Program("any", "Any.", lambda _: None, program)([]) == 0
    assert [warning.category for warning in seen] == [UserWarning]


def test_what_is_imported_is_not_searched_for_garbage_and_later_garbage_is():
    code = """
import gc
from codi_lens.cli.program import importing
with importing():
    assert not gc.isenabled()
    import decimal, plotly.graph_objects
assert gc.isenabled()
kept = gc.get_freeze_count()
assert kept > 10_000, kept
ring = []
ring.append(ring)
del ring
with importing():
    import decimal
assert gc.get_freeze_count() <= kept
assert gc.collect() >= 1
gc.disable()
with importing():
    pass
assert not gc.isenabled()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
