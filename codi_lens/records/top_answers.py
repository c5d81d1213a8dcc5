"""The answers of the outlined cells alone: which cells they are is known only when all pairs are done."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from codi_lens.analysis.aggregates import aggregate, donor_threshold, top_cells
from codi_lens.patching.plans import Settings
from codi_lens.patching.result import Cell, PairOutcome, Sweep


@dataclass(frozen=True)
class TopCells:
    """The five outlined cells of a sweep's main map, and a smaller sweep that holds them all.

    Attributes:
        cells: indices along the sweep's axes behind the first.
        axes: for each of these axes, the indices that the smaller sweep has.
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
        axes = [sorted(set(indices)) for indices in zip(*top, strict=True)]
        labels = {
            f"{name}s": tuple(getattr(settings, f"{name}s")[i] for i in indices)
            for name, indices in zip(list(sweep.axes)[1:], axes, strict=True)
        }
        smaller = replace(settings, mode=settings.variants[0], controls=False, **labels)  # type: ignore[arg-type]
        return cls(frozenset(top), tuple(axes), smaller)

    def texts(self, outcome: PairOutcome) -> dict[Cell, str]:
        """The answers of these cells, from a pair's outcome in the smaller sweep."""
        found = {
            tuple(axis[i] for axis, i in zip(self.axes, cell, strict=True)): text
            for (_, *cell), text in outcome.texts.items()
        }
        return {(0, *cell): text for cell, text in found.items() if cell in self.cells}
