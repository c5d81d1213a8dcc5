"""Iterative patching: along the latents of a layer, iteration by iteration."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.choices import EFFECTS
from codi_lens.errors import UserError
from codi_lens.patching.experiments.base import Axes, Experiment, Table
from codi_lens.patching.interventions import from_run
from codi_lens.patching.plan import BASE, NONE, Given, Plan, Runs, grid_of, patches, site_at
from codi_lens.patching.schedule import Patch, Run, steps_of
from codi_lens.patching.settings import Label, Settings

STRATEGIES = SINGLE, CUMULATIVE, CHAINED, PARALLEL = ("single", "cumulative", "chained", "parallel")


class Iterative(Experiment):
    """How much of a patch survives from thought to thought?

    With i counting the chosen positions (all latents, in order), at every layer:

    * single: the source activation at position i only.
    * cumulative: source activations at positions 0 .. i.
    * chained: iteration 0 is `single`; iteration i + 1 patches only position i + 1, with what the model
      itself generated there in iteration i: how much of the first patch survives when it may pass on through
      that position alone (mediation). Keeping the earlier patches as well would change nothing, since a
      deterministic model then generates the same vector again.
    * parallel: all positions at once; it stands at the last iteration.

    The plan's `generated` tells which activation each iteration left at the next position (none at the last).
    """

    name = "iterative_patching"
    title = "iterative"
    across = "iteration"
    cells_key = "iterative_patching_results"
    cell_names = ("layer", "iteration")
    has_controls = False
    iterates = True

    def check(self, settings: Settings) -> None:
        """Refuses effects and controls, which iterations do not have, and positions out of order."""
        if settings.effects != EFFECTS[:1]:
            raise UserError(
                f"iterative patching with effect={settings.effect!r}, controls={settings.controls}: it goes "
                f"on from what each patch made of the run, so it has effect {EFFECTS[0]!r} and no controls; "
                "patch_positions has effects and controls"
            )
        order = [step for step in steps_of(settings.num_latents) if step in settings.positions]
        if order != list(settings.positions):
            raise UserError(
                f"positions {list(settings.positions)}: iterations pass on from one to the next, so give "
                f"them in the order of the run, {order}"
            )

    def effects(self, settings: Settings) -> tuple[Label, ...]:
        return STRATEGIES

    def columns(self, settings: Settings) -> tuple[Label, ...]:
        return tuple(range(len(settings.positions)))

    def plan(self, settings: Settings, given: Given) -> Plan:
        self.check(settings)
        steps = settings.positions
        rows = [[site_at(settings, layer, step) for step in steps] for layer in settings.layers]
        grid = grid_of(settings)
        runs = Runs(grid, with_donor=False)
        shape = (len(STRATEGIES), len(rows), len(steps))
        cells, generated = torch.full(shape, NONE), torch.full((*shape, 2), NONE)
        for i, row in enumerate(rows):
            own = patches(row, given.source)
            chained = own[0]
            for k in range(len(steps)):
                after = row[k + 1 : k + 2]
                for strategy, wanted in enumerate(((own[k],), own[: k + 1], (chained,))):
                    run = runs.add(Run(BASE, wanted, capture=tuple(after)))
                    cells[strategy, i, k] = run
                    if after:
                        generated[strategy, i, k] = torch.tensor([run, i * len(steps) + k + 1])
                if after:  # the run added last is the chained one
                    chained = Patch(after[0], from_run(run))
            cells[-1, i, -1] = runs.add(Run(BASE, own))
        return Plan(tuple(runs.all), cells, grid, generated)

    def lines(
        self, means: Float[Tensor, "effect row column"], axes: Axes
    ) -> dict[str, list[tuple[int, int, int]]]:
        last = len(axes["column"]) - 1
        return {
            f"{name}, last iteration": [(i, row, last) for row in range(len(axes["row"]))]
            for i, name in enumerate(axes["effect"])
        }

    def tabulate(self, cells: Table) -> dict[str, Any]:
        return {self.cells_key: cells}

    def cells_of(self, entry: Any, axes: Axes) -> Table:
        table: Table = entry.get(self.cells_key, {})
        return table
