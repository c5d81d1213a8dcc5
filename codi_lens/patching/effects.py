"""Effects and controls: what becomes of a run after a patch, and what else could be patched in.

* total: later thoughts are recomputed from what the model now has.
* direct: the inputs of all latent steps are held at the base run's; what is left is attention to the patched
  position.
* indirect: the later thoughts that the patched run generated are fed to an otherwise unpatched run.

Controls put something else in: the base run's own activation (identity), that of another pair's source run
(resample), or the base's displaced as far as the source's is, in a random direction.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from codi_lens.choices import CONTROLS, EFFECTS
from codi_lens.errors import one_of
from codi_lens.model.hooks import Site
from codi_lens.patching.interventions import Intervention, RandomDirection, from_run
from codi_lens.patching.plan import (
    BASE,
    DONOR,
    NONE,
    SOURCE,
    Given,
    Place,
    Plan,
    Runs,
    SourceOf,
    grid_of,
    patches,
    place_at,
)
from codi_lens.patching.schedule import Run
from codi_lens.patching.settings import Label, Settings

TOTAL, DIRECT, INDIRECT = EFFECTS
IDENTITY, RESAMPLE, RANDOM_DIRECTION = CONTROLS


@dataclass
class Cell:
    """One cell to be, which patches all of its places at once; `made` holds the runs it has so far."""

    runs: Runs
    settings: Settings
    places: Sequence[Place]
    source: SourceOf
    random: SourceOf
    capture: tuple[Site, ...] = ()
    """What its runs keep."""
    made: dict[str, int] = field(default_factory=dict)

    def run(self, effect: str) -> int:
        """The run of an effect, made when it is first asked for."""
        if effect not in self.made:
            self.made[effect] = EFFECT_RUNS[one_of(effect, EFFECT_RUNS, "effect")](self)
        return self.made[effect]

    def patched(self, source: SourceOf, thoughts_from: int | None = None) -> int:
        """A base run with something put in at every place."""
        run = Run(BASE, patches(self.places, source), thoughts_from, self.capture)
        return self.runs.add(run)

    def control(self, source: SourceOf) -> int:
        """As the main effect has it, but with something else put in."""
        return self.patched(source, BASE if self.settings.effects[0] == DIRECT else None)


def _indirect(cell: Cell) -> int:
    return cell.runs.add(Run(BASE, (), cell.run(TOTAL)))


def _resample(cell: Cell) -> int:
    return cell.control(lambda _: from_run(DONOR)) if cell.runs.with_donor else NONE


EFFECT_RUNS: dict[str, Callable[[Cell], int]] = {
    TOTAL: lambda cell: cell.patched(cell.source),
    DIRECT: lambda cell: cell.patched(cell.source, BASE),
    INDIRECT: _indirect,
    IDENTITY: lambda cell: cell.control(lambda _: from_run(BASE)),
    RANDOM_DIRECTION: lambda cell: cell.control(cell.random),
    RESAMPLE: _resample,
}
"""Effect or control -> what adds its run to a plan and returns the run's index, in the order of the runs."""


def add_cell(cell: Cell) -> list[int]:
    """The runs of all effects of a cell, in the order of the settings' effects."""
    wanted = cell.settings.effects
    for effect in EFFECT_RUNS:
        if effect in wanted:
            cell.run(effect)
    return [cell.made[effect] for effect in wanted]


def cell_plan(
    settings: Settings, places: Sequence[Sequence[tuple[Label, Label]]], given: Given
) -> Plan:
    """Cells that each patch some (layer, step) at once, with every effect of the settings.

    `places` goes row by row, column by column.
    """
    together = [[place_at(settings, *place) for place in cell] for cell in places]
    grid = grid_of(settings)
    runs = Runs(grid, given.with_donor)
    random = random_directions(settings.seed, given.pair_id)
    cells = [add_cell(Cell(runs, settings, cell, given.source, random)) for cell in together]
    index = torch.tensor(cells).T.reshape(len(settings.effects), len(settings.layers), -1)
    return Plan(tuple(runs.all), index, grid)


def random_directions(seed: int, pair_id: int) -> SourceOf:
    """The base's activation, displaced as far as the source's, in a direction of the site's own."""

    def displaced(site: Site) -> Intervention:
        # A hash, so that a direction depends on pair and site alone and not on what runs beside it.
        part = "" if site.part is None else f"/{site.part}"
        text = f"{seed}/{pair_id}/{site.name}/{site.step}{part}".encode()
        number = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
        return RandomDirection((BASE, SOURCE), number)

    return displaced
