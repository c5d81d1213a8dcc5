"""Running with a journal as a notebook does: stopped, gone on with, read back."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from codi_lens import UserError, records
from codi_lens.cli import position_patching
from codi_lens.cli.patching import CELLS
from codi_lens.patching.sweep import make_settings
from codi_lens.records.manifest import MANIFEST
from codi_lens.records.read import RecordError, load, read_manifest
from codi_lens.records.stopping import CtrlC, Interrupted
from tests.models.runs import PAIRS, contents


@pytest.fixture
def run(tiny):
    """Runs the job in a folder; keywords as in `records.run`."""
    settings = make_settings(tiny, layers=[0, 2], positions=[0, 1])

    def call(folder, **more):
        asked = {"settings": settings, "batch_rows": 8, "answers": "top", "progress": False}
        return records.run(tiny, PAIRS, "position_patching", folder, **{**asked, **more})

    return call


@pytest.fixture
def stopped(run, monkeypatch, tmp_path):
    """(folder of a run with Ctrl-C after its second pair, what was raised)."""

    def press(_, done):
        if done == 2:
            patch.setattr(CtrlC, "pressed", True)

    with monkeypatch.context() as patch, pytest.raises(Interrupted) as stop:
        run(tmp_path / "stopped", on_pair=press)
    return tmp_path / "stopped", stop.value


def equal(one, other):
    """Whether sweeps have the same pairs, metrics and answers, to the last bit."""
    pairs = zip(one.outcomes, other.outcomes, strict=True)
    return one.pairs == other.pairs and all(
        a.texts == b.texts
        and all(
            torch.equal(v.nan_to_num(), b.metrics[n].nan_to_num()) for n, v in a.metrics.items()
        )
        for a, b in pairs
    )


def test_a_stopped_run_goes_on_and_is_then_read_back_without_the_model(
    run, stopped, tiny, tmp_path, monkeypatch
):
    folder, stop = stopped
    assert str(stop) == "interrupted: 2 of 4 pairs are done; go on with\n  the same call"
    assert stop.sweep.pairs == PAIRS[:2]
    whole = run(tmp_path / "whole", pages=lambda sweep: {"n.txt": f"{len(sweep.outcomes)} pairs"})
    sweep = run(folder, pages=lambda sweep: {"n.txt": f"{len(sweep.outcomes)} pairs"})
    assert equal(sweep, whole)
    assert any(outcome.texts for outcome in sweep.outcomes)
    assert contents(folder) == contents(tmp_path / "whole")
    assert (folder / "n.txt").read_text() == "4 pairs"
    with monkeypatch.context() as patch:
        patch.setattr(tiny, "_loop", SimpleNamespace(device=tiny.loop.device, model=tiny.model))
        assert equal(run(folder), whole)


def test_another_run_in_the_same_folder_is_refused(run, stopped, tiny, tmp_path):
    folder, _ = stopped
    freeze = make_settings(tiny, layers=[0, 2], positions=[0, 1], effect="direct")
    run(tmp_path / "whole")
    for there in (folder, tmp_path / "whole"):
        with pytest.raises(RecordError, match=r"settings.effect \(there total, here direct\)"):
            run(there, settings=freeze)
        with pytest.raises(UserError, match="give a fresh folder, or resume it"):
            run(there, resume=False)
    (folder / "journal.jsonl").unlink()
    with pytest.raises(UserError, match=r"holds a record without a journal\.jsonl"):
        run(folder)


def test_input_that_cannot_be_used_leaves_nothing(run, tmp_path):
    with pytest.raises(UserError, match="no answers 'some'; known are none, top, all"):
        run(tmp_path / "run", answers="some")
    assert not (tmp_path / "run").exists()


def test_a_program_does_not_go_on_with_what_no_program_began(stopped, capsys):
    folder, _ = stopped
    assert position_patching.main(["--resume", str(folder)]) == 2
    assert "was not begun by a program; call codi_lens.records.run" in capsys.readouterr().err


def test_the_progress_bar_says_where_a_run_goes_on(run, stopped, capsys):
    run(stopped[0], progress=True)
    said = capsys.readouterr().err
    assert "going on: 2 of 4 pairs are there\n" in said
    assert "4/4" in said
    assert (stopped[0] / MANIFEST).exists()


def test_parquet_beside_the_json_has_the_same_cells_and_is_in_the_manifest(flags, tmp_path):
    folder = tmp_path / "run"
    assert position_patching.main([*flags, "--format", "parquet", "--out", str(folder)]) == 0
    assert CELLS in read_manifest(folder)["files"]
    assert pd.read_parquet(folder / CELLS).equals(load(folder).to_dataframe())
