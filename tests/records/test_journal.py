"""The journal's lines: exact, checked, and safe to cut anywhere."""

import errno
import json
import math
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codi_lens import UserError, files
from codi_lens.patching.result import PairOutcome, RunRecord
from codi_lens.records.journal import (
    JOURNAL,
    PARTS,
    Journal,
    remove_parts,
)
from codi_lens.records.journal_file import read_header
from codi_lens.records.journal_lines import decode, encode
from codi_lens.records.manifest import SCHEMA_VERSION
from codi_lens.records.read import RecordError
from tests.models.runs import PAIRS

PATH = Path("run/journal.jsonl")
HEADER = {"schema_version": SCHEMA_VERSION, "experiment": "position_patching", "arguments": ["--x"]}


def run_record(generator):
    metrics = {"kl_divergence": torch.rand((), generator=generator, dtype=torch.float64).item()}
    return RunRecord(metrics | {"recovery": math.nan, "logit_diff": -0.0}, 'says "é" \u2028', True)


def make_outcome(pair, seed, dtype=torch.float32, generated=True):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64).to(dtype)
    values[0, 0, 0] = torch.nan
    return PairOutcome(
        pair,
        {"recovery": values, "kl_divergence": -values, "a_third": values.double() / 3},
        run_record(generator),
        run_record(generator),
        activations=values * 3,
        generated=torch.stack([values] * 4, dim=-1) if generated else None,
        texts={(0, 1, 2): "a", (0, 0, 1): "b\n"},
        donor=3,
    )


def same(tensor, other):
    whole = tensor.shape == other.shape and tensor.dtype == other.dtype
    return whole and torch.equal(tensor.nan_to_num(7), other.nan_to_num(7))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("generated", [True, False])
def test_a_pair_comes_back_as_it_was(tmp_path, dtype, generated):
    wanted = {pair.pair_id: make_outcome(pair, i, dtype, generated) for i, pair in enumerate(PAIRS)}
    with Journal(tmp_path, HEADER) as journal:
        for outcome in wanted.values():
            journal.add(outcome)
        journal.add_answers(7, {(0, 2, 1): "late"})
    with Journal(tmp_path, HEADER, resume=True) as journal:
        found = journal.outcomes(PAIRS)
        assert not journal.torn
        assert journal.answers() == {7: {(0, 2, 1): "late"}}
    assert list(found) == list(wanted)
    for pair_id, outcome in wanted.items():
        back = found[pair_id]
        assert list(back.metrics) == list(outcome.metrics)
        assert all(same(back.metrics[name], value) for name, value in outcome.metrics.items())
        assert same(back.activations, outcome.activations)
        assert back.generated is None if not generated else same(back.generated, outcome.generated)
        assert (back.pair, back.texts, back.donor) == (outcome.pair, outcome.texts, outcome.donor)
        for run, expected in ((back.base, outcome.base), (back.source, outcome.source)):
            assert repr(run) == repr(expected)


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(share=st.floats(0, 1))
def test_a_journal_cut_behind_its_first_line_goes_on(tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("cut")
    with Journal(folder, HEADER) as journal:
        first = journal._file.end
        for i, pair in enumerate(PAIRS[:2]):
            journal.add(make_outcome(pair, i))
    path = folder / JOURNAL
    content = path.read_bytes()
    path.write_bytes(content[: first + round(share * (len(content) - first))])
    with Journal(folder, HEADER, resume=True) as journal:
        done = journal.outcomes(PAIRS)
        for i, pair in enumerate(PAIRS[:2]):
            if pair.pair_id not in done:
                journal.add(make_outcome(pair, i))
    assert path.read_bytes() == content


def test_a_pair_whose_tensors_are_damaged_or_gone_is_named(tmp_path):
    with Journal(tmp_path, HEADER) as journal:
        journal.add(make_outcome(PAIRS[1], 0))
    part = tmp_path / PARTS / "7.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with (
        Journal(tmp_path, HEADER, resume=True) as journal,
        pytest.raises(RecordError, match=r"7.safetensors is damaged: its digest"),
    ):
        journal.outcomes(PAIRS[1:2])
    remove_parts(tmp_path)
    with (
        Journal(tmp_path, HEADER, resume=True) as journal,
        pytest.raises(RecordError, match=r"cannot read .*7.safetensors, the tensors of a pair"),
    ):
        journal.outcomes(PAIRS[1:2])


def test_lines_that_no_run_leaves_in_this_order_are_named(tmp_path):
    with Journal(tmp_path, HEADER) as journal:
        for pair in PAIRS[:2]:
            journal.add(make_outcome(pair, 1))
        journal.add_answers(7, {(0, 2, 1): "late"})
    path = tmp_path / JOURNAL
    first, zero, seven, answers = path.read_bytes().splitlines(keepends=True)
    for lines, message in (
        ([zero, first, seven], "line 1 is a pair's"),
        ([first, first, zero], "line 2 is not a pair's: two journals stand in one file"),
        ([first, zero, seven, zero], "line 4 is of pair 0 again, after journal.jsonl, line 2"),
        ([first, zero, answers, seven], "line 3 has answers of pair 7 before the pair's own line"),
        ([first, seven, answers, answers], "line 4 is of pair 7 again"),
    ):
        path.write_bytes(b"".join(lines))
        with pytest.raises(RecordError, match=message):
            Journal(tmp_path, HEADER, resume=True)
        assert path.read_bytes() == b"".join(lines)
    path.write_bytes(b"".join([first, zero, seven]))
    with (
        Journal(tmp_path, HEADER, resume=True) as journal,
        pytest.raises(RecordError, match="lines of pairs that the run does not have: 7"),
    ):
        journal.outcomes(PAIRS[:1])


def ordered(*pairs):
    return HEADER | {"pair_ids": [pair.pair_id for pair in pairs]}


def test_lines_that_were_moved_or_deleted_are_named(tmp_path):
    header = ordered(*PAIRS)
    with Journal(tmp_path, header) as journal:
        for pair in PAIRS[:3]:
            journal.add(make_outcome(pair, 1))
    path = tmp_path / JOURNAL
    first, zero, seven, two = path.read_bytes().splitlines(keepends=True)
    for lines, message in (
        ([seven, zero, two], "line 2 is of pair 7, where that of pair 0 is due"),
        ([seven, two], "line 2 is of pair 7, where that of pair 0 is due"),
        ([zero, two], "line 3 is of pair 2, where that of pair 7 is due"),
    ):
        path.write_bytes(b"".join([first, *lines]))
        with pytest.raises(RecordError, match=message):
            Journal(tmp_path, header, resume=True)


def test_a_process_behind_the_first_may_have_come_further(tmp_path):
    header = ordered(*PAIRS[:3])
    Journal(tmp_path, header).__exit__()
    with Journal(tmp_path, header, index=1) as journal:
        journal.add(make_outcome(PAIRS[1], 1))
    content = (tmp_path / "journal-1.jsonl").read_bytes()
    with Journal(tmp_path, header, resume=True) as journal:
        assert list(journal.outcomes(PAIRS)) == [7]
        journal.add(make_outcome(PAIRS[0], 1))
        journal.add(make_outcome(PAIRS[2], 1))
    (tmp_path / "journal-1.jsonl").write_bytes(content)  # killed before it was removed
    with Journal(tmp_path, header, resume=True) as journal:
        assert list(journal.outcomes(PAIRS)) == [7, 0, 2]


def test_a_journal_beside_the_first_is_taken_over_once(tmp_path):
    """Killed between taking over lines and removing the journal that they came from."""
    Journal(tmp_path, HEADER).__exit__()
    with Journal(tmp_path, HEADER, index=1) as journal:
        for pair in PAIRS[:2]:
            journal.add(make_outcome(pair, 1))
    beside = tmp_path / "journal-1.jsonl"
    content = beside.read_bytes()
    for _ in range(2):
        with Journal(tmp_path, HEADER, resume=True) as journal:
            assert list(journal.outcomes(PAIRS)) == [0, 7]
        assert not beside.exists()
        assert (tmp_path / JOURNAL).read_bytes() == content
        beside.write_bytes(content)
    lines = content.splitlines(keepends=True)
    beside.write_bytes(b"".join([encode(HEADER | {"experiment": "layer_patching"}), *lines[1:]]))
    with pytest.raises(RecordError, match=r"experiment \(there layer_patching"):
        Journal(tmp_path, HEADER, resume=True)
    assert beside.exists()


@pytest.mark.parametrize("failing", ["flock", "fsync"])
def test_a_run_goes_on_without_what_the_system_does_not_offer(tmp_path, monkeypatch, failing):
    """As on file systems of some clusters."""
    if failing == "flock":
        monkeypatch.setattr("fcntl.flock", lambda *_: no_locks(errno.ENOLCK))
    else:
        monkeypatch.setattr("codi_lens.files.os.open", lambda *_: no_locks(errno.EINVAL))
    with pytest.warns(UserWarning, match="is not possible here; going on without") as warned:
        Journal(tmp_path, HEADER).__exit__()
    assert {warning.filename for warning in warned} == {files.__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Journal(tmp_path, HEADER, resume=True) as journal:
            journal.add(make_outcome(PAIRS[0], 0))
            assert list(journal.outcomes(PAIRS)) == [0]


def no_locks(number):
    raise OSError(number, "not here")


def test_a_write_that_fails_leaves_the_journal_as_it_was(tmp_path, monkeypatch):
    with Journal(tmp_path, HEADER) as journal:
        journal.add(make_outcome(PAIRS[0], 0))
        before = (tmp_path / JOURNAL).read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            with pytest.raises(OSError, match="No space left"):
                journal.add_answers(1, {})
        assert (tmp_path / JOURNAL).read_bytes() == before
        journal.add(make_outcome(PAIRS[1], 1))
    assert len(decode((tmp_path / JOURNAL).read_bytes(), PATH)[0]) == 3


def full(_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experiment": "layer_patching"}, r"experiment \(there position_patching, here layer_"),
        ({"schema_version": 9}, rf"schema_version \(there {SCHEMA_VERSION}, here 9\)"),
        ({"model": {"dtype": "float64"}}, r"model \(there None, here"),
    ],
)
def test_another_run_is_not_gone_on_with(tmp_path, change, message):
    Journal(tmp_path, HEADER).__exit__()
    with pytest.raises(RecordError, match=message):
        Journal(tmp_path, HEADER | change, resume=True)
    Journal(tmp_path, HEADER | {"arguments": ["--out", "x"]}, resume=True).__exit__()


def test_a_journal_of_another_schema_version_is_not_read(tmp_path):
    (tmp_path / JOURNAL).write_bytes(encode(HEADER | {"schema_version": 0}))
    for attempt in (lambda: read_header(tmp_path), lambda: Journal(tmp_path, HEADER, resume=True)):
        with pytest.raises(RecordError, match=r"schema_version \(there 0, here"):
            attempt()


def test_where_there_is_no_journal_nothing_is_resumed(tmp_path):
    for attempt in (lambda: read_header(tmp_path), lambda: Journal(tmp_path, HEADER, resume=True)):
        with pytest.raises(RecordError, match=r"not a run to resume: no journal\.jsonl"):
            attempt()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("system", ["POSIX", "Windows"])
def test_a_second_process_is_kept_out(tmp_path, monkeypatch, system):
    if system == "Windows":
        monkeypatch.setitem(sys.modules, "fcntl", None)
    with Journal(tmp_path, HEADER):
        with pytest.raises(UserError, match="another process is writing"):
            Journal(tmp_path, HEADER, resume=True)
        with pytest.raises(UserError, match=r"there is a run in .* already"):
            Journal(tmp_path, HEADER)
    Journal(tmp_path, HEADER, resume=True).__exit__()


def test_the_pair_that_a_part_is_of_cannot_lead_out_of_the_folder(tmp_path):
    """Paths come from the ids of the pairs that are run, which are integers, not from the journal."""
    with Journal(tmp_path, HEADER) as journal:
        journal.add(make_outcome(replace(PAIRS[0], pair_id=-5), 0))
    assert (tmp_path / PARTS / "-5.safetensors").exists()
    line = json.loads((tmp_path / JOURNAL).read_text().splitlines()[1])
    assert "/" not in json.dumps(line["entry"])
