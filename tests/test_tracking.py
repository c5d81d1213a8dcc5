"""What W&B is told, read back from what it wrote; and that its failures stay its own."""

import re
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from codi_lens import plots, tracking
from codi_lens.analysis.aggregates import aggregate
from codi_lens.cli import layer_patching, upload
from codi_lens.tracking import Tracker, artifact_name, table_of
from tests.models.invented import invented_sweep
from tests.models.runs import write_job

ROOT = Path(__file__).parent.parent
BLOCK, HEADER = 32768, 7


def records(path):
    """The protobuf records of a .wandb file: a log in LevelDB's format, behind a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = path.read_bytes(), HEADER, b""
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        if kind == 0:
            break
        parts += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def finished(path, seconds=60):
    """The records of a file, once W&B's own process has written the last of them."""
    end = time.monotonic() + seconds
    while True:
        found = list(records(path))
        if any(record.HasField("exit") for record in found) or time.monotonic() > end:
            return found
        time.sleep(0.2)


@pytest.fixture
def track(tmp_path):
    def made(mode="offline", **options):
        return Tracker(
            mode, experiment="position_patching", folder=tmp_path, config={"site": "x"}, **options
        )

    return made


def test_off_loads_nothing_and_writes_nothing(tmp_path):
    code = f"""
import sys
from pathlib import Path
from codi_lens.tracking import Tracker
from tests.models.invented import invented_sweep
from tests.models.runs import write_job
sweep = invented_sweep()
tracker = Tracker("off", experiment="e", folder=Path({str(tmp_path)!r}), config={{}})
tracker.pair(sweep.outcomes[0], 1)
assert tracker.finish(sweep)
assert "wandb" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_what_was_written_offline_can_be_read_back(track, tmp_path):
    sweep = invented_sweep()
    kept = tmp_path / "manifest.json"
    kept.write_text("{}")
    tracker = track(tags=["toy"])
    for done, outcome in enumerate(sweep.outcomes, start=1):
        tracker.pair(outcome, done)
    assert tracker.finish(sweep, {"recovery": plots.heatmap(sweep)}, [kept])

    (written,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    found = finished(written)
    (run,) = [record.run for record in found if record.HasField("run")][:1]
    assert (run.project, run.run_group) == ("codi-lens", "position_patching")
    assert list(run.tags) == ["position_patching", "toy"]
    config = {item.key: item.value_json for item in run.config.update}
    assert config["site"] == '"x"'

    history = [
        {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]
    done = [int(line["pairs_done"]) for line in history if "pairs_done" in line]
    assert done == [1, 2, 3, 4]
    shown = [f"{key} {value}" for line in history for key, value in line.items()]
    for kind, name in (("table-file", "cells"), ("plotly-file", "figures/recovery")):
        assert any(kind in text and text.startswith(name) for text in shown), shown

    summary = {
        item.key or "/".join(item.nested_key): item.value_json
        for record in found
        if record.HasField("summary")
        for item in record.summary.update
    }
    mean = float(aggregate(sweep).means["recovery"][0, 2, 1])
    assert float(summary["recovery/2/1"]) == pytest.approx(mean)
    artifacts = [
        record.request.log_artifact.artifact if record.HasField("request") else record.artifact
        for record in found
        if record.HasField("artifact") or record.request.HasField("log_artifact")
    ]
    assert all(a.name.startswith("position_patching-") for a in artifacts if a.type == "record")
    names = {entry.path for a in artifacts if a.type == "record" for entry in a.manifest.contents}
    assert names == {"manifest.json"}


def test_programs_tell_of_commit_and_machine_at_once_and_later(tmp_path, monkeypatch):
    told = []

    def tracker(mode, *, config, **options):
        told.append(config["origin"])
        return Tracker("off", config=config, **options)

    monkeypatch.setattr(tracking, "Tracker", tracker)
    job = [word for word in write_job(tmp_path) if word not in ("--positions", "0,1")]
    run = str(tmp_path / "run")
    assert layer_patching.main([*job, "--limit", "1", "--wandb", "offline", "--out", run]) == 0
    assert upload.main([run]) == 0
    at_once, later = told
    assert at_once["host"] == later["host"]
    assert at_once["code"] == later["code"]


def test_the_table_has_a_row_per_cell():
    sweep = invented_sweep()
    head, rows = table_of(sweep)
    assert len(rows) == 6 * 3 * 3
    assert {len(row) for row in rows} == {len(head)}
    assert head[:3] == ["map", "layer", "latent position"]


@pytest.mark.parametrize("moment", ["init", "log", "finish"])
def test_a_failure_is_one_warning_and_ends_nothing(track, monkeypatch, moment):
    import wandb

    class Broken:
        def __getattr__(self, name):
            if name == moment:
                raise ConnectionError("no route")
            return lambda *_, **__: None

        summary: dict = {}  # noqa: RUF012

    def init(**_):
        if moment == "init":
            raise ConnectionError("no route")
        return Broken()

    monkeypatch.setattr(wandb, "init", init)
    sweep = invented_sweep()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tracker = track()
        for done, outcome in enumerate(sweep.outcomes, start=1):
            tracker.pair(outcome, done)
        assert not tracker.finish(sweep)
    ours = [w for w in caught if "experiments.upload" in str(w.message)]
    assert len(ours) == 1
    assert "no route" in str(ours[0].message)


def test_nobody_is_asked_for_a_key(track, monkeypatch):
    import wandb

    monkeypatch.setattr(wandb, "login", lambda prompt: prompt)
    with pytest.warns(UserWarning, match="not logged in"):
        assert not track("online").finish(invented_sweep())


def test_a_sweep_does_not_wait_for_the_network(track, monkeypatch):
    import wandb

    monkeypatch.setattr(wandb, "init", lambda **_: time.sleep(5))
    sweep = invented_sweep()
    started = time.perf_counter()
    tracker = track(patience=0.2)
    for done, outcome in enumerate(sweep.outcomes, start=1):
        tracker.pair(outcome, done)
    assert time.perf_counter() - started < 0.2
    with pytest.warns(UserWarning, match=r"not done after 0\.2 seconds"):
        assert not tracker.finish(sweep)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker._give_up("again")


@pytest.mark.parametrize(
    "text",
    [
        "position_patching-run",
        "x-my results (v2)",
        "x-" + "a" * 130,
        "x-résultats",
        "x-結果",
        "x-\udcff",
    ],
)
def test_any_folder_gives_a_name_that_an_artifact_may_have(text):
    import wandb

    name = artifact_name(text)
    wandb.Artifact(name, type="record")
    assert re.fullmatch("[A-Za-z0-9_.-]{1,128}", name)
    assert (name == text) == bool(re.fullmatch("[A-Za-z0-9_.-]{1,128}", text))
    assert artifact_name(text + " ") != name


class Told:
    """A W&B run that keeps what it is told."""

    def __init__(self):
        self.opened, self.logged, self.ended, self.summary = [], [], [], {}

    def __call__(self, **options):
        self.opened.append((options["id"], options["resume"]))
        return self

    def log(self, line):
        self.logged.append(line.get("pairs_done"))

    def log_artifact(self, _):
        pass

    def finish(self, exit_code):
        self.ended.append(exit_code)


def test_a_run_that_fails_is_ended_and_gone_on_with(track, monkeypatch, tmp_path):
    import wandb

    told, sweep = Told(), invented_sweep()
    monkeypatch.setattr(wandb, "init", told)

    def failing(error):
        with track() as tracker:
            tracker.pair(sweep.outcomes[0], 1)
            raise error

    for error in (OSError("full"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            failing(error)
    with track() as tracker:
        tracker.pair(sweep.outcomes[1], 2)
        assert tracker.finish(sweep)
    assert told.ended == [1, 1, 0]
    assert told.logged[:3] == [1, 1, 2]
    assert len(set(told.opened)) == 1, "one W&B run, of whatever process"
    assert told.opened[0] == ((tmp_path / "wandb" / "run_id").read_text(), "allow")
