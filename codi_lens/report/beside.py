"""Runs beside each other: laws that bind them, and figures of those that have enough cells."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple
from typing import Any

from codi_lens import plots
from codi_lens.analysis.comparison import LEAST, compare, named
from codi_lens.analysis.differences import Difference, difference, shared
from codi_lens.analysis.grids import panels
from codi_lens.errors import UserError
from codi_lens.patching.experiments.iterative import CHAINED
from codi_lens.patching.result import Sweep


def comparison(
    runs: Mapping[str, Sweep], manifests: Mapping[str, dict[str, Any]]
) -> tuple[dict[str, Any], list[plots.Figure]]:
    """What `codi_lens.analysis.comparison` finds, for runs that it cannot compare, why; and its figures.

    Of correlations and figures, those alone that have enough cells.
    """
    entry: dict[str, Any] = {}
    drawn, alike = [], _same_cells(runs)
    if len(alike) > 1:
        metric = next(iter(alike.values())).experiment.shows[0]
        drawn += [plots.heatmaps(alike, metric), plots.differences(_apart(alike, metric))]
    try:
        found = compare(runs, {name: m["model"]["dtype"] for name, m in manifests.items()})
    except UserError as error:
        return {"refused": f"Not compared: {error}."}, drawn
    entry["checks"] = [vars(check) for check in found.checks]
    ranked = found.rank_correlation.items()
    entry["correlations"] = [[name, *astuple(c)] for name, c in ranked if c.rho is not None]
    layered = {
        name: sweep
        for name, sweep in named(runs).items()
        if sweep.experiment.cell_names[0] == "layer"
    }
    if len(layered) > 1 and all(len(sweep.axes["row"]) >= LEAST for sweep in layered.values()):
        drawn.append(plots.layer_profile(layered))
    cells = {name: s for name, s in layered.items() if len(s.axes["column"]) > 1}
    if len(cells) == 2:
        with suppress(UserError):  # they have no cell in common that has a value
            scatter = plots.scatter(cells, maps=_scattered(cells))
            drawn += [scatter] if sum(len(trace.x) for trace in scatter.data) >= LEAST else []
    return entry, drawn


def _apart(alike: Mapping[str, Sweep], metric: str) -> dict[str, Difference]:
    """How each run differs from the first, cell by cell."""
    first, *others = alike
    return {
        f"{name} − {first}": difference(shared(alike[first], alike[name], (first, name)), metric)
        for name in others
    }


def _same_cells(runs: Mapping[str, Sweep]) -> dict[str, Sweep]:
    """Those with the cells of the first map, to be seen side by side; iterations would repeat it."""
    maps = {
        name: sweep
        for name, sweep in runs.items()
        if len(sweep.axes["column"]) > 1 and not sweep.experiment.iterates
    }
    first = next(iter(maps.values()), None)
    return {
        name: sweep
        for name, sweep in maps.items()
        if first is not None
        and sweep.experiment is first.experiment
        and [sweep.axes[axis] for axis in ("row", "column")]
        == [first.axes[axis] for axis in ("row", "column")]
    }


def _scattered(cells: Mapping[str, Sweep]) -> tuple[str, str]:
    """What of each sweep to set against the other: `single` would be the position-wise cells again."""
    one, other = (CHAINED if s.experiment.iterates else panels(s)[0] for s in cells.values())
    return one, other
