"""The answers of the outlined cells alone: which cells they are is known only when all pairs are done."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from codi_lens.analysis.aggregates import aggregate, donor_threshold, top_cells
from codi_lens.patching.result import Cell, PairOutcome, Sweep
from codi_lens.patching.settings import Settings


@dataclass(frozen=True)
class TopCells:
    """The five outlined cells of a sweep's main map, and a smaller sweep that holds them all.

    Attributes:
        cells: (row, column) of each.
        axes: the rows and the columns that the smaller sweep has.
        settings: of the smaller sweep.
    """

    cells: frozenset[Cell]
    axes: tuple[Sequence[int], ...]
    settings: Settings

    @classmethod
    def of(cls, sweep: Sweep) -> Self | None:
        """Those of a sweep that is done, if it has any."""
        group, settings = aggregate(sweep), sweep.settings
        threshold = donor_threshold(sweep, group)
        top = top_cells(group.means["recovery"][0], sweep.structural_zeros(), threshold=threshold)
        if not top:
            return None
        rows, columns = (sorted(set(indices)) for indices in zip(*top, strict=True))
        smaller = replace(
            settings,
            effect=settings.effects[0],  # type: ignore[arg-type]
            controls=False,
            layers=tuple(settings.layers[i] for i in rows),
        )
        if len(sweep.experiment.cell_names) > 1:
            smaller = replace(smaller, positions=tuple(settings.positions[i] for i in columns))
        return cls(frozenset(top), (rows, columns), smaller)

    def texts(self, outcome: PairOutcome) -> dict[Cell, str]:
        """The answers of these cells, from a pair's outcome in the smaller sweep."""
        found = {
            tuple(axis[i] for axis, i in zip(self.axes, cell, strict=True)): text
            for (_, *cell), text in outcome.texts.items()
        }
        return {(0, *cell): text for cell, text in found.items() if cell in self.cells}
