"""Layer-wise patching: all chosen positions of a layer at once."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from codi_lens.patching.effects import cell_plan
from codi_lens.patching.experiments.base import Axes, Experiment, Table
from codi_lens.patching.plan import Given, Plan
from codi_lens.patching.settings import Label, Settings

ALL = "all"
"""The one column."""


class Layers(Experiment):
    """Which layer carries the computation, all latents together?"""

    name = "layer_patching"
    title = "layer-wise"
    across = "positions"
    cells_key = "layer_patching_results"
    uses = frozenset({"intervention", "strength"})
    alone = True
    cell_names = ("layer",)

    def columns(self, settings: Settings) -> tuple[Label, ...]:
        return (ALL,)

    def plan(self, settings: Settings, given: Given) -> Plan:
        places = [[(layer, step) for step in settings.positions] for layer in settings.layers]
        return cell_plan(settings, places, given)

    def lines(
        self, means: Float[Tensor, "effect row column"], axes: Axes
    ) -> dict[str, list[tuple[int, int, int]]]:
        return {"all positions": [(0, row, 0) for row in range(len(axes["row"]))]}

    def tabulate(self, cells: Table) -> dict[str, Any]:
        """Without the one column."""
        entry = super().tabulate(cells)

        def plain(rows: Any) -> dict[str, Any]:
            return {row: columns[ALL] for row, columns in rows.items()}

        entry[self.cells_key] = plain(entry[self.cells_key])
        if "effects" in entry:
            entry["effects"] = {name: plain(rows) for name, rows in entry["effects"].items()}
        return entry

    def cells_of(self, entry: Any, axes: Axes) -> Table:
        rows = entry.get(self.cells_key, {})
        return {str(axes["effect"][0]): {row: {ALL: metrics} for row, metrics in rows.items()}}
