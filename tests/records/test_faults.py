"""The main job killed at any moment: what is resumed equals what was never interrupted.

Jobs run in forked children, so that the libraries are imported once; a child that is told to kills itself
with SIGKILL at a named point, which no code can catch.
"""

import os
import random
import resource
import shutil
import signal
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from codi_lens import files
from codi_lens.cli import position_patching
from codi_lens.records import journal, journal_file, stopping
from tests.models.runs import PAIRS, contents, write_job


def die(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def at(owner, name, *, nth=1, first=None, then=die):
    """Wraps a function: at its nth call, `first` or itself is called, and then `then`."""
    original, calls = getattr(owner, name), count(1)

    def wrapped(*args, **kwargs):
        if next(calls) != nth:
            return original(*args, **kwargs)
        result = (first or original)(*args, **kwargs)
        then()
        return result

    setattr(owner, name, wrapped)


def write_half(path, content):
    path.write_bytes(content[: len(content) // 2])


def half_a_line():
    original, lines = journal_file.encode, count()

    def encode(entry):
        line = original(entry)
        if next(lines) == 2:
            at(os, "fsync")
            return line[: len(line) // 2]
        return line

    journal_file.encode = encode


def before_a_batch():
    checks = count(1)
    stopping.CtrlC.pressed = property(lambda _: die() if next(checks) == 2 else False)


def remove_one(folder, **_):
    next(folder.iterdir()).unlink()


POINTS = {
    "half of a line": half_a_line,
    "after a line": lambda: at(journal_file.JournalFile, "append", nth=3),
    "half of a part": lambda: at(journal, "write_through", nth=2, first=write_half),
    "a part without its line": lambda: at(journal, "write_through", nth=2),
    "between batches": before_a_batch,
    "among the last answers": lambda: at(journal.Journal, "add_answers", nth=2),
    "half of a draft": lambda: at(files, "write_through", nth=3, first=write_half),
    "before the first rename": lambda: at(Path, "replace", first=die),
    "between the JSON files": lambda: at(Path, "replace"),
    "between the tensor files": lambda: at(Path, "replace", nth=3),
    "before the manifest": lambda: at(Path, "replace", nth=6, first=die),
    "after the manifest": lambda: at(Path, "replace", nth=6),
    # The first folder removed is the one that the tokenizer was read from.
    "among the parts": lambda: at(shutil, "rmtree", nth=2, first=remove_one),
}


def start(arguments, log, before=lambda: None):
    """Forks a child that runs the main job; returns its process id."""
    child = os.fork()
    if child:
        return child
    try:
        signal.alarm(120)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        before()
        code = position_patching.main(arguments)
        sys.stdout.flush()
    except BaseException as error:
        os.write(2, repr(error).encode())
        code = 70
    os._exit(code)


def ended(child):
    """The exit code of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """(flags, files of an uninterrupted run, seconds from its first pair to its end)."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork
    root = tmp_path_factory.mktemp("faults")
    flags, whole, moments = write_job(root), root / "whole", []
    add = journal.Journal.add

    def timed(self, outcome):
        add(self, outcome)
        moments.append(time.perf_counter())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal.Journal, "add", timed)
        assert position_patching.main([*flags, "--out", str(whole)]) == 0
    return flags, contents(whole), time.perf_counter() - moments[0]


def wait_for_a_pair(folder):
    path = folder / journal.JOURNAL
    while not (path.exists() and path.read_bytes().count(b"\n") > 1):
        time.sleep(0.001)


def resume(folder, log):
    """Goes on with a run; returns what it said."""
    assert ended(start(["--resume", str(folder)], log)) == 0, log.read_text()
    return log.read_text()


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_at_a_named_point_is_resumed_to_equal_files(job, tmp_path, point):
    flags, whole, _ = job
    folder, log = tmp_path / "run", tmp_path / "log"
    child = start([*flags, "--out", str(folder)], log, POINTS[point])
    assert ended(child) == -signal.SIGKILL, log.read_text()
    before = len(journal_file.decode((folder / journal.JOURNAL).read_bytes(), folder)[0])
    said = resume(folder, log)
    assert contents(folder) == whole
    assert ("was torn" in said) == (point == "half of a line")
    after = (folder / journal.JOURNAL).read_bytes().count(b"\n")
    assert before >= 2
    assert after == 1 + 2 * len(PAIRS)


@pytest.mark.parametrize("seed", range(5))
def test_a_run_killed_at_a_random_moment_is_resumed_to_equal_files(job, tmp_path, seed):
    flags, whole, seconds = job
    folder, log = tmp_path / "run", tmp_path / "log"
    child = start([*flags, "--out", str(folder)], log)
    wait_for_a_pair(folder)
    time.sleep(random.Random(seed).random() * seconds)
    os.kill(child, signal.SIGKILL)
    assert ended(child) in (0, -signal.SIGKILL)
    resume(folder, log)
    assert contents(folder) == whole


def test_a_run_killed_in_its_first_line_has_nothing_to_resume(job, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"

    def half():
        at(os, "fsync")
        original = journal_file.encode
        journal_file.encode = lambda entry: original(entry)[:50]

    assert ended(start([*job[0], "--out", str(folder)], log, half)) == -signal.SIGKILL
    assert ended(start(["--resume", str(folder)], log)) == 2
    assert "no whole first line: nothing was finished, so start afresh" in log.read_text()


def test_a_full_disk_leaves_whole_lines_and_a_clear_message(job, tmp_path):
    """Files may not grow beyond a limit: the write that would is cut short, as on a full disk."""
    flags, whole, _ = job
    folder, log = tmp_path / "run", tmp_path / "log"
    sizes = [len(line) + 1 for line in whole[journal.JOURNAL]]

    def limit():
        header = 2500  # more than the first line takes
        cut = header + sizes[0] + sizes[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (cut, cut))

    assert ended(start([*flags, "--out", str(folder)], log, limit)) == 2
    said = log.read_text()
    assert "File too large" in said
    assert f"--resume {folder}" in said
    assert "Traceback" not in said
    content = (folder / journal.JOURNAL).read_bytes()
    entries, length = journal_file.decode(content, folder)
    assert len(content) == length
    assert 2 <= len(entries) < 1 + len(PAIRS)
    assert not (folder / "manifest.json").exists()
    resume(folder, log)
    assert contents(folder) == whole
