"""Iterative patching: along the latents of a layer, iteration by iteration."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.choices import EFFECTS
from codi_lens.errors import UserError, one_of
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.experiments.base import Axes, Experiment, Table
from codi_lens.patching.plan import (
    BASE,
    NONE,
    Given,
    Place,
    Plan,
    Runs,
    grid_of,
    kept_of,
    patches,
    place_at,
    run_of,
)
from codi_lens.patching.schedule import Patch, Run, steps_of
from codi_lens.patching.settings import Label, Settings
from codi_lens.patching.similarity import similarities

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
    * chained from s: a chain that starts at position s, for the other `starts`. Chains from the first position are
      blind to a computation that begins later; start × end is a matrix for every layer, upper triangle.

    The plan's `generated` tells which activation each iteration left at the next position (none at the last).
    """

    name = "iterative_patching"
    title = "iterative"
    across = "iteration"
    cells_key = "iterative_patching_results"
    cell_names = ("layer", "iteration")
    uses = frozenset({"intervention", "strength", "starts"})
    has_controls = False
    iterates = True

    def check(self, settings: Settings) -> None:
        """Refuses effects and controls, which iterations do not have, and positions out of order."""
        chain_starts(settings)
        if settings.effects != EFFECTS[:1]:
            raise UserError(
                f"iterative patching with effect={settings.effect!r}, controls={settings.controls}: it goes "
                f"on from what each patch made of the run, so it has effect {EFFECTS[0]!r} and no controls; "
                "patch_positions has effects and controls"
            )
        super().check(settings)
        order = [step for step in steps_of(settings.num_latents) if step in settings.positions]
        if order != list(settings.positions):
            raise UserError(
                f"positions {list(settings.positions)}: iterations pass on from one to the next, so give "
                f"them in the order of the run, {order}"
            )

    def effects(self, settings: Settings) -> tuple[Label, ...]:
        return tuple(dict.fromkeys((*STRATEGIES, *chain_starts(settings))))

    def columns(self, settings: Settings) -> tuple[Label, ...]:
        return tuple(range(len(settings.positions)))

    def plan(self, settings: Settings, given: Given) -> Plan:
        self.check(settings)
        steps, grid = settings.positions, grid_of(settings)
        runs = Runs(grid, given.with_donor)
        effects = self.effects(settings)
        single, cumulative, parallel = map(effects.index, (SINGLE, CUMULATIVE, PARALLEL))
        shape = (len(effects), len(settings.layers), len(steps))
        cells, generated = torch.full(shape, NONE), torch.full((*shape, 2), NONE)
        for i, layer in enumerate(settings.layers):
            row = [place_at(settings, layer, step) for step in steps]

            def iteration(k: int, patched: tuple[Patch, ...], row: Sequence[Place] = row) -> int:
                return runs.add(Run(BASE, patched, capture=kept_of(row[k + 1 : k + 2])))

            for k in range(len(row)):
                own, so_far = (patches(row[j : k + 1], given.source) for j in (k, 0))
                cells[single, i, k] = iteration(k, own)
                # What begins alike is one run: a first iteration patches one position, whatever the strategy.
                cells[cumulative, i, k] = iteration(k, so_far) if k else cells[single, i, 0]
            cells[parallel, i, -1] = cells[cumulative, i, -1]
            for chain, start in chain_starts(settings).items():
                before = int(cells[single, i, start])
                cells[effects.index(chain), i, start] = before
                for k in range(start + 1, len(row)):
                    before = iteration(k, patches(row[k : k + 1], run_of(before)))
                    cells[effects.index(chain), i, k] = before
            for k in range(len(row) - 1):
                there = cells[:, i, k] != NONE
                generated[there, i, k, 0] = cells[there, i, k]
                generated[there, i, k, 1] = i * len(steps) + k + 1
        return Plan(tuple(runs.all), cells, grid, generated)

    def derived(
        self,
        codi: HookedCodi,
        settings: Settings,
        generated: Float[Tensor, "effect row column width"],
        base: Float[Tensor, "layer position width"],
        source: Float[Tensor, "layer position width"],
    ) -> dict[str, Float[Tensor, "effect row column"]]:
        return similarities(generated, base, source, settings.direction)

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


def chain_starts(settings: Settings) -> dict[str, int]:
    """Chain -> index of the position at which it starts, the first position's before all."""
    steps = settings.positions
    found = {steps.index(one_of(start, steps, "start")) for start in settings.starts}
    later = {f"{CHAINED} from {steps[start]}": start for start in sorted(found - {0})}
    return {CHAINED: 0, **later}
