"""A small model and a small job: records of sweeps of the one, runs of the other."""

import signal

import pytest
import torch

from codi_lens import HookedCodi
from codi_lens.cli import position_patching
from codi_lens.records.write import write_record
from tests.models.recorded import EXPERIMENTS, measure
from tests.models.runs import interrupt_after, write_job
from tests.models.tiny import write_tiny


@pytest.fixture(scope="session")
def codi(tmp_path_factory):
    folder = write_tiny(tmp_path_factory.mktemp("model"), seed=13)
    return HookedCodi.from_pretrained(folder, dtype=torch.float64)


@pytest.fixture(scope="module", params=EXPERIMENTS)
def recorded(request, codi, tmp_path_factory):
    """(sweep in memory, folder of its record)."""
    folder = tmp_path_factory.mktemp("record")
    sweep = measure(codi, request.param)
    write_record(folder, sweep, codi, {"pairs": "mine"}, pages={"heatmap.html": "<p>"})
    return sweep, folder


@pytest.fixture
def record(codi, tmp_path):
    sweep = measure(codi, "iterative_patching", layers=[1])
    write_record(tmp_path, sweep, codi, {})
    return tmp_path


@pytest.fixture(scope="session")
def flags(tmp_path_factory):
    return write_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="session")
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


@pytest.fixture
def interrupted(flags, tmp_path, monkeypatch):
    """A run with Ctrl-C after its second pair."""
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert position_patching.main([*flags, "--out", str(tmp_path / "run")]) == 130
    return tmp_path / "run"
