"""Logging to Weights & Biases, if asked for. The record on disk never depends on it.

Everything that W&B does happens in a thread of its own: a sweep never waits for a network. If anything fails
(not installed, not logged in, unreachable, an error midway), there is one warning, and nothing more is sent.
"""

import queue
import re
import secrets
import threading
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from codi_lens.analysis.aggregates import aggregate, finite
from codi_lens.analysis.grids import as_grid, columns, metric_names, pairs_behind, panels
from codi_lens.choices import WandbMode
from codi_lens.errors import command
from codi_lens.files import read_text, write_text
from codi_lens.patching.result import PairOutcome, Sweep

PROJECT = "codi-lens"
PATIENCE = 120.0
"""Seconds to wait, when all is done, for what is still to be sent."""
SHORT_PATIENCE = 10.0
"""Seconds to wait when the run has failed, or was interrupted."""
RUN_ID = Path("wandb") / "run_id"
"""In the folder of a record: which W&B run tells of it."""
LONGEST_NAME = 128
"""Characters, of an artifact."""

Job = Callable[[Any], None]


class Tracker:
    """A W&B run, fed through a queue. In mode "off" it does nothing and loads nothing.

    Used as a context manager: leaving it without `finish` marks the W&B run as failed. A later process with
    a tracker of the same folder continues the W&B run.

    Args:
        mode: offline writes below `folder`/wandb, for `wandb sync`; online sends.
        experiment: group, and first tag, of the run.
        folder: of the record.
        config: what the user asked for.
        tags: further tags.
        patience: seconds that `finish` waits.
    """

    def __init__(
        self,
        mode: WandbMode,
        *,
        experiment: str,
        folder: Path,
        config: Mapping[str, Any],
        tags: Sequence[str] = (),
        patience: float = PATIENCE,
    ) -> None:
        self.mode = mode
        self.folder = folder
        self.patience = patience
        self.failed = False
        self._finished = mode == "off"
        self._exit_code = 0
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._options = {
            "project": PROJECT,
            "name": folder.name,
            "group": experiment,
            "tags": [experiment, *tags],
            "config": dict(config),
            "dir": str(folder),
            "mode": mode,
        }
        if mode != "off":
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            self._exit_code = 1
            self._end(min(self.patience, SHORT_PATIENCE))

    def pair(self, outcome: PairOutcome, done: int) -> None:
        """Tells that a pair is done, and how many are, with it."""
        if self.mode == "off":
            return
        told = {"pairs_done": done, "pair_id": outcome.pair.pair_id}
        self._jobs.put(lambda run: run.log(told))

    def finish(
        self, sweep: Sweep, figures: Mapping[str, Any] | None = None, files: Sequence[Path] = ()
    ) -> bool:
        """Sends aggregates, figures (plotly, by name), the table of cells and the record's files.

        Returns whether all was sent, or there was nothing to send; waits for `patience` seconds at most.
        """
        if self.mode == "off":
            return True
        name = artifact_name(f"{sweep.experiment.name}-{self.folder.name}")
        self._jobs.put(lambda run: run.summary.update(summary_of(sweep)))
        self._jobs.put(lambda run: _log_table(run, sweep))
        self._jobs.put(lambda run: _log_figures(run, figures or {}))
        self._jobs.put(lambda run: _log_artifact(run, name, files))
        self._end(self.patience)
        return not self.failed

    def _end(self, patience: float) -> None:
        self._finished = True
        self._jobs.put(None)
        self._thread.join(patience)
        if self._thread.is_alive():
            self._give_up(f"was not done after {patience:g} seconds")

    def _work(self) -> None:
        """The thread: opens the run, then does the jobs in turn until there is no more, or one fails."""
        try:
            run = _open(self._options, _run_id(self.folder))
            try:
                while (job := self._jobs.get()) is not None:
                    job(run)
            except BaseException:
                self._exit_code = 1
                raise
            finally:
                run.finish(exit_code=self._exit_code)
        except Exception as error:
            # Whatever W&B raises (it has no common base) must not reach the sweep.
            self._give_up(f"failed ({type(error).__name__}: {error})")

    def _give_up(self, why: str) -> None:
        if self.failed:
            return
        self.failed = True
        warnings.warn(
            f"W&B {why}; the record in {self.folder} does not depend on it, and once that is finished "
            f"`{command('upload', self.folder)}` sends it",
            stacklevel=2,
        )


def artifact_name(text: str) -> str:
    """A valid artifact name for W&B, different for different texts."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text)
    if name == text and len(name) <= LONGEST_NAME:
        return name
    mark = f"-{zlib.crc32(text.encode(errors='surrogateescape')):08x}"
    return name[: LONGEST_NAME - len(mark)] + mark


def _run_id(folder: Path) -> str:
    """The id of a record's W&B run, kept beside the record so that a resumed run can continue it."""
    path = folder / RUN_ID
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, secrets.token_hex(8))
    return read_text(path).strip()


def _open(options: Mapping[str, Any], run_id: str) -> Any:
    """The W&B run. It never asks for a key, since nobody may be there to answer."""
    import wandb

    if options["mode"] == "online" and not wandb.login(prompt=False):
        raise PermissionError("not logged in; run `wandb login`")
    settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
    return wandb.init(**options, id=run_id, resume="allow", settings=settings)


def summary_of(sweep: Sweep) -> dict[str, float | int]:
    """Counts, and the main map of recovery and KL, cell by cell: `recovery/LAYER/COLUMN`."""
    group, main = aggregate(sweep), panels(sweep)[0]
    found: dict[str, float | int] = {"pairs": group.n, "pairs_with_recovery": group.n_recovery}
    for metric in sweep.experiment.shows:
        for layer, row in zip(
            sweep.axes["row"], as_grid(group.means[metric], sweep, main).tolist(), strict=True
        ):
            for column, value in zip(columns(sweep)[1], row, strict=True):
                if finite(value) is not None:
                    found[f"{metric}/{layer}/{column}"] = value
    return found


def table_of(sweep: Sweep) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the table of cells: means over pairs of every metric, None where there is none."""
    group, names = aggregate(sweep), metric_names(sweep)
    head = ["map", "layer", columns(sweep)[0], "n", "n_recovery", *names]
    rows = []
    for panel in panels(sweep):
        grids = [as_grid(group.means[name], sweep, panel).tolist() for name in names]
        for i, layer in enumerate(sweep.axes["row"]):
            for j, column in enumerate(columns(sweep)[1]):
                counts = [pairs_behind(group, name) for name in ("kl_divergence", "recovery")]
                values = [finite(grid[i][j]) for grid in grids]
                rows.append([panel, str(layer), str(column), *counts, *values])
    return head, rows


def _log_table(run: Any, sweep: Sweep) -> None:
    import wandb

    head, rows = table_of(sweep)
    run.log({"cells": wandb.Table(columns=[*head], data=rows)})


def _log_figures(run: Any, figures: Mapping[str, Any]) -> None:
    import wandb

    run.log({f"figures/{name}": wandb.Plotly(figure) for name, figure in figures.items()})


def _log_artifact(run: Any, name: str, files: Sequence[Path]) -> None:
    import wandb

    artifact = wandb.Artifact(name, type="record")
    for path in files:
        artifact.add_file(str(path))
    run.log_artifact(artifact)
