"""How far can an attribution be trusted? Its agreement with exact patching, on cells drawn at random."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.comparison import spearman
from codi_lens.data.pairs import Pair
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.effects import Cell, add_cell, random_directions
from codi_lens.patching.experiments.positions import Positions
from codi_lens.patching.plan import NONE, Given, Plan, Runs, grid_of, place_at
from codi_lens.patching.settings import Settings
from codi_lens.patching.sweep import run_experiment

BAR = 0.8
"""Pooled Pearson correlation below which a figure says that the scores are not to be relied on."""


@dataclass(frozen=True)
class Fidelity:
    """Scores beside exact effects of the same cells."""

    pearson: float
    """Over all cells that were drawn."""
    spearman: float
    of_means: float
    """Pearson, of the means over pairs cell by cell."""
    by_pair: tuple[float, ...]
    """Pearson within each pair of which cells were drawn, in order; NaN for fewer than three cells."""
    cells: tuple[tuple[int, int, int], ...]
    """Pair, row and column of each, as indices."""
    scores: Float[Tensor, " cell"]
    exact: Float[Tensor, " cell"]

    @property
    def n(self) -> int:
        """Number of cells."""
        return len(self.cells)

    @property
    def text(self) -> str:
        """In words, for figures and tables."""
        said = (
            f"against exact patching of {self.n} cells: r {self.pearson:.2f} pooled, {self.of_means:.2f} of the mean "
            f"maps, rank correlation {self.spearman:.2f}"
        )
        return said if self.pearson >= BAR else f"{said} (below {BAR}: do not rely on single cells)"


class SomeCells(Positions):
    """Position-wise patching of some cells of every pair alone."""

    def __init__(self, chosen: Mapping[int, Sequence[tuple[int, int]]]) -> None:
        """`chosen`: pair id -> rows and columns, as indices."""
        self.chosen = chosen

    def plan(self, settings: Settings, given: Given) -> Plan:
        grid = grid_of(settings)
        runs = Runs(grid, given.with_donor)
        random_ones = random_directions(settings.seed, given.pair_id)
        shape = len(settings.effects), len(settings.layers), len(settings.positions)
        cells = torch.full(shape, NONE)
        for row, column in self.chosen[given.pair_id]:
            place = place_at(settings, settings.layers[row], settings.positions[column])
            made = add_cell(Cell(runs, settings, [place], given.source, random_ones))
            cells[:, row, column] = torch.tensor(made)
        return Plan(tuple(runs.all), cells, grid)


def measure_fidelity(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    settings: Settings,
    metric: str,
    scores: Float[Tensor, "pair row column"],
    count: int,
) -> Fidelity:
    """Patches cells exactly, and compares.

    Args:
        scores: of all cells.
        count: how many cells are drawn; all if there are no more.
    """
    every = [tuple(index) for index in torch.ones(scores.shape).nonzero().tolist()]
    rng = random.Random(settings.seed)
    drawn = cast(list[tuple[int, int, int]], sorted(rng.sample(every, min(count, len(every)))))
    chosen: dict[int, list[tuple[int, int]]] = {pair.pair_id: [] for pair in pairs}
    for pair, row, column in drawn:
        chosen[pairs[pair].pair_id].append((row, column))
    asked = [pair for pair in pairs if chosen[pair.pair_id]]
    sweep = run_experiment(SomeCells(chosen), codi, asked, settings)
    place = {pair.pair_id: i for i, pair in enumerate(asked)}
    values = sweep.values(metric)[:, 0]
    exact = []
    for pair, row, column in drawn:
        i = place[pairs[pair].pair_id]
        exact.append(float(values[i, row, column]) - sweep.outcomes[i].base.metrics[metric])
    index = torch.tensor(drawn)
    return compared(tuple(drawn), scores[tuple(index.T)], torch.tensor(exact))


def compared(
    cells: tuple[tuple[int, int, int], ...],
    scores: Float[Tensor, " cell"],
    exact: Float[Tensor, " cell"],
) -> Fidelity:
    """Correlations of scores and exact effects; cells without an exact effect are left out."""
    defined = exact.isfinite()
    cells = tuple(cell for cell, there in zip(cells, defined.tolist(), strict=True) if there)
    scores, exact = scores[defined].double(), exact[defined].double()
    groups: dict[tuple[int, int], list[int]] = {}
    pairs: dict[int, list[int]] = {}
    for i, (pair, row, column) in enumerate(cells):
        groups.setdefault((row, column), []).append(i)
        pairs.setdefault(pair, []).append(i)
    means = [torch.stack([v[own].mean() for own in groups.values()]) for v in (scores, exact)]
    by_pair = tuple(
        pearson(scores[own], exact[own]) if len(own) >= 3 else float("nan")
        for own in pairs.values()
    )
    return Fidelity(
        pearson(scores, exact),
        spearman(scores, exact),
        pearson(*means),
        by_pair,
        cells,
        scores,
        exact,
    )


def pearson(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> float:
    """Pearson's correlation; NaN where one of them does not vary."""
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x.norm() * y.norm()))
