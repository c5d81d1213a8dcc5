"""Several processes on one run: the same files as one process, whatever ends it."""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import HashStore, TCPStore

from codi_lens.cli import position_patching
from codi_lens.records.journal import JOURNAL, Journal
from codi_lens.records.manifest import MANIFEST, SCHEMA_VERSION, differences
from codi_lens.records.processes import Processes
from codi_lens.records.read import RecordError
from tests.models.runs import contents, write_job

DYING = """
import os, signal, sys
from codi_lens.records.journal import Journal
from codi_lens.cli import position_patching

add = Journal.add
def last_words(self, outcome):
    add(self, outcome)
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
Journal.add = last_words
sys.exit(position_patching.main())
"""


SLOW = """
import os, sys, time
from codi_lens.records.journal import Journal
from codi_lens.cli import position_patching

outcomes = Journal.outcomes
def late(self, pairs):
    time.sleep(3 if os.environ["RANK"] == "1" and list(self.folder.glob("parts/*")) else 0)
    return outcomes(self, pairs)
Journal.outcomes = late
sys.exit(position_patching.main())
"""


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    return [*write_job(tmp_path_factory.mktemp("job")), "--answers", "top"]


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    assert position_patching.main([*flags, "--out", str(folder)]) == 0
    return folder


def launch(*program, count=2):
    """Runs a program as `accelerate launch` does, in processes on the CPU."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = ["--multi_gpu", "--num_processes", count, "--num_machines", 1]
    flags += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port]
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *map(str, [*flags, *program])],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
    )


def differing(folder, whole):
    """Names of the files that are not the same in both, with what their manifests say differently."""
    found, expected = contents(folder), contents(whole)
    for files in (found, expected):
        del files[MANIFEST]["config"]["processes"]
        files[JOURNAL].sort()  # lines stand as they came
    names = [n for n in found | expected if found.get(n) != expected.get(n)]
    return names + list(differences(found[MANIFEST], expected[MANIFEST]))


def test_two_processes_write_what_one_writes(flags, whole, tmp_path):
    folder = tmp_path / "two"
    done = launch("-m", "experiments.position_patching", *flags, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert not differing(folder, whole)
    assert contents(folder)[MANIFEST]["config"]["processes"] == 2
    assert done.stdout.count("written:") == 1


def test_more_processes_than_pairs(flags, whole, tmp_path):
    folder = tmp_path / "two"
    one = ["--limit", "1", "--controls", "none", "--out"]
    assert launch("-m", "experiments.position_patching", *flags, *one, folder).returncode == 0
    assert position_patching.main([*flags, *one, str(tmp_path / "one")]) == 0
    assert not differing(folder, tmp_path / "one")


def test_one_process_goes_on_where_two_were_killed(flags, whole, tmp_path):
    folder, script = tmp_path / "run", tmp_path / "dying.py"
    script.write_text(DYING)
    done = launch(script, *flags, "--out", folder)
    assert done.returncode != 0
    assert not (folder / MANIFEST).exists()
    assert len((folder / "journal-1.jsonl").read_bytes().splitlines()) == 2, "a header and a pair"
    assert position_patching.main(["--resume", str(folder)]) == 0
    assert not differing(folder, whole)


def test_a_process_may_be_slow_to_read_what_the_first_then_removes(flags, tmp_path):
    folder, script = tmp_path / "run", tmp_path / "slow.py"
    script.write_text(SLOW)
    flags = [*flags, "--answers", "none", "--controls", "none", "--batch-rows", "12", "--out"]
    done = launch(script, *flags, folder)
    assert done.returncode == 0, done.stderr
    assert position_patching.main([*flags, str(tmp_path / "one")]) == 0
    assert not differing(folder, tmp_path / "one")


def test_they_meet_and_hear_the_first():
    store = HashStore()
    three = [Processes(i, 3, i, store) for i in range(3)]
    with ThreadPoolExecutor(3) as pool:
        heard = list(pool.map(lambda one: [one.from_first(f"{one.index}{n}") for n in "ab"], three))
    assert heard == [["0a", "0b"]] * 3


def test_who_waits_is_told_when_the_store_is_gone():
    master = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    client = TCPStore("localhost", master.port, is_master=False, wait_for_workers=False)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(Processes(1, 2, 1, client).wait)
        while not master.check(["arrived 0"]):
            time.sleep(0.01)
        del master
        with pytest.raises(ConnectionError, match="process 1 has lost the others"):
            waiting.result()


def test_a_journal_in_use_by_another_process_of_the_run_is_not_taken_over(tmp_path):
    header = {"schema_version": SCHEMA_VERSION, "what": "a run"}
    Journal(tmp_path, header).__exit__()
    with (
        Journal(tmp_path, header, index=1),
        pytest.raises(Exception, match="another process is writing"),
    ):
        Journal(tmp_path, header, resume=True)
    Journal(tmp_path, header, resume=True).__exit__()
    assert not (tmp_path / "journal-1.jsonl").exists()


def test_a_damaged_journal_beside_the_first_is_named(tmp_path):
    header = {"schema_version": SCHEMA_VERSION}
    Journal(tmp_path, header).__exit__()
    Journal(tmp_path, header, index=1).__exit__()
    path = tmp_path / "journal-1.jsonl"
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(RecordError, match=r"journal-1\.jsonl, line 1 is damaged"):
        Journal(tmp_path, header, resume=True)


@given(items=st.integers(0, 200), count=st.integers(1, 30))
def test_parts_are_all_of_it_once_and_alike_in_length(items, count):
    parts = [list(range(items))[Processes(i, count).part(items)] for i in range(count)]
    assert [item for part in parts for item in part] == list(range(items))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_process_takes_the_gpu_of_its_number(monkeypatch):
    second = Processes(1, 2, 1)
    assert second.device("cpu") == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [second.device(asked) for asked in ("auto", "cuda", "cuda:5", "cpu")] == [
        "cuda:1",
        "cuda:1",
        "cuda:5",
        "cpu",
    ]
    assert Processes().device("auto") == "auto"
