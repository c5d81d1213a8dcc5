"""Position-wise patching: one cell per (layer, position)."""

from types import MappingProxyType
from typing import Any

from codi_lens.patching.effects import cell_plan
from codi_lens.patching.experiments.base import Axes, Experiment, Table
from codi_lens.patching.plan import Given, Plan
from codi_lens.patching.settings import Label, Settings


class Positions(Experiment):
    """Which (layer, latent position) carries the computation?"""

    name = "position_patching"
    title = "position-wise"
    across = "latent position"
    cells_key = "layer_position_results"
    uses = frozenset({"intervention", "strength"})
    alone = True
    cell_names = ("layer", "position")
    means_keys = MappingProxyType(
        {
            "layer_position_kl_means": "kl_divergence",
            "layer_position_ans_diff_means": "answer_logit_diff",
        }
    )
    rest_key = "extra_results"
    """Of rows and columns that have names: the first key keeps to numbers, as the first study has it."""

    def columns(self, settings: Settings) -> tuple[Label, ...]:
        return settings.positions

    def plan(self, settings: Settings, given: Given) -> Plan:
        places = [[(layer, step)] for layer in settings.layers for step in settings.positions]
        return cell_plan(settings, places, given)

    def tabulate(self, cells: Table) -> dict[str, Any]:
        entry = super().tabulate(cells)
        named: dict[str, dict[str, Any]] = {}
        numbered: dict[str, dict[str, Any]] = {}
        for row, columns in entry[self.cells_key].items():
            for column, metrics in columns.items():
                both = row.isdecimal() and column.isdecimal()
                (numbered if both else named).setdefault(row, {})[column] = metrics
        return entry | {self.cells_key: numbered, self.rest_key: named}

    def cells_of(self, entry: Any, axes: Axes) -> Table:
        numbered, named = entry.get(self.cells_key, {}), entry.get(self.rest_key, {})
        rows = {row: numbered.get(row, {}) | named.get(row, {}) for row in {**numbered, **named}}
        return {str(axes["effect"][0]): rows}
