"""Weights & Biases, or nothing. A record on disk comes first and never depends on it.

Everything that W&B does happens in a thread of its own: a sweep never waits for a network. What goes wrong
there (not installed, not logged in, unreachable, failing midway) is one warning; after it, nothing more is sent.
"""

import queue
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codi_lens.aggregates import aggregate, finite
from codi_lens.choices import WandbMode
from codi_lens.grids import as_grid, columns, metric_names, pairs_behind, panels
from codi_lens.outcomes import PairOutcome, Sweep

PROJECT = "codi-lens"
PATIENCE = 120.0
"""Seconds to wait, when all is done, for what is still to be sent."""
SUMMARISED = ("recovery", "kl_divergence")

Job = Callable[[Any], None]


class Tracker:
    """A W&B run, fed through a queue. In mode "off" it does nothing and loads nothing.

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
        self._done = 0
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

    def pair(self, outcome: PairOutcome) -> None:
        """Tells that a pair is done."""
        if self.mode == "off":
            return
        self._done += 1
        done = {"pairs_done": self._done, "pair_id": outcome.pair.pair_id}
        self._jobs.put(lambda run: run.log(done))

    def finish(
        self, sweep: Sweep, figures: Mapping[str, Any] | None = None, files: Sequence[Path] = ()
    ) -> bool:
        """Sends aggregates, figures (plotly, by name), the table of cells and the record's files.

        Returns whether all was sent, or there was nothing to send; waits for `patience` seconds at most.
        """
        if self.mode == "off":
            return True
        name = f"{sweep.experiment}-{self.folder.name}"
        self._jobs.put(lambda run: run.summary.update(summary_of(sweep)))
        self._jobs.put(lambda run: _log_table(run, sweep))
        self._jobs.put(lambda run: _log_figures(run, figures or {}))
        self._jobs.put(lambda run: _log_artifact(run, name, files))
        self._jobs.put(None)
        self._thread.join(self.patience)
        if self._thread.is_alive():
            self._give_up(f"was not done after {self.patience:g} seconds")
        return not self.failed

    def _work(self) -> None:
        """The thread: opens the run, then does the jobs in turn until there is no more, or one fails."""
        try:
            run = _open(self._options)
            while (job := self._jobs.get()) is not None:
                job(run)
            run.finish()
        except Exception as error:
            # Whatever W&B raises (it has no common base) must not reach the sweep.
            self._give_up(f"failed ({type(error).__name__}: {error})")

    def _give_up(self, why: str) -> None:
        if self.failed:
            return
        self.failed = True
        warnings.warn(
            f"W&B {why}; the results are in {self.folder}, and "
            f"`python -m experiments.upload {self.folder}` sends them later",
            stacklevel=2,
        )


def _open(options: Mapping[str, Any]) -> Any:
    """The W&B run. A run is never asked for a key: nobody may be there to answer."""
    import wandb

    if options["mode"] == "online" and not wandb.login(prompt=False):
        raise PermissionError("not logged in; run `wandb login`")
    settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
    return wandb.init(**options, settings=settings)


def summary_of(sweep: Sweep) -> dict[str, float | int]:
    """Counts, and the main map of recovery and KL, cell by cell: `recovery/LAYER/COLUMN`."""
    group, main = aggregate(sweep), panels(sweep)[0]
    found: dict[str, float | int] = {"pairs": group.n, "pairs_with_recovery": group.n_recovery}
    for metric in SUMMARISED:
        for layer, row in zip(
            sweep.settings.layers, as_grid(group.means[metric], sweep, main).tolist(), strict=True
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
        for i, layer in enumerate(sweep.settings.layers):
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
