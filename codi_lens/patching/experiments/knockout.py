"""Attention knockout: which steps must see which others?"""

from typing import Any

import torch

from codi_lens.errors import UserError
from codi_lens.model.hooks import Step
from codi_lens.model.knockouts import Knockout
from codi_lens.patching.experiments.base import Experiment
from codi_lens.patching.experiments.windows import windows
from codi_lens.patching.plan import BASE, NONE, Given, Plan, Runs, grid_of
from codi_lens.patching.schedule import Run, steps_of
from codi_lens.patching.settings import Label, Settings

QUESTION, PROMPT, LATENTS, END = "question", "question+bot", "latents", "eot+answer"


class KnockOut(Experiment):
    """Which steps must attend to which others for the answer to be what it is?

    A cell sets the attention scores from the steps of its row to those of its column to −inf, in a window of layers
    (an effect: all layers, and each window of `window` layers), in the base run; later thoughts are recomputed.
    Rows: bot, each latent, eot, the answer's tokens, and eot and answer together. Columns: the question's tokens, bot,
    each latent, question and bot together, all latents. To hide the question from the answer, bot must be hidden too:
    it has read all of it. A step always sees itself; cells without a step that comes before are empty. What the
    question's own tokens attend to is not changed: BOS would be left with nothing to see.
    """

    name = "knockout"
    title = "attention knockout"
    heading = "Attention knockout"
    across = "attended step"
    cells_key = "knockout_results"
    cell_names = ("from", "to")
    uses = frozenset({"window"})
    shows = ("prediction_change_rate", "kl_divergence", "base_given")
    has_effects = False

    def subject(self, settings: Settings) -> str:
        return "attention blocked"

    def down(self, settings: Settings) -> str:
        return "attending step"

    def check(self, settings: Settings) -> None:
        super().check(settings)
        if settings.controls:
            raise UserError(
                "controls=True means nothing to knockout, which puts nothing in; leave it out"
            )

    def effects(self, settings: Settings) -> tuple[Label, ...]:
        return tuple(windows(settings))

    def rows(self, settings: Settings) -> tuple[Label, ...]:
        return ("bot", *range(settings.num_latents), "eot", "answer", END)

    def columns(self, settings: Settings) -> tuple[Label, ...]:
        return (QUESTION, "bot", *range(settings.num_latents), PROMPT, LATENTS)

    def plan(self, settings: Settings, given: Given) -> Plan:
        grid = grid_of(settings)
        runs = Runs(grid, given.with_donor)
        rows, columns = self.rows(settings), self.columns(settings)
        cells = torch.full((len(self.effects(settings)), len(rows), len(columns)), NONE)
        for e, layers in enumerate(windows(settings).values()):
            for i, row in enumerate(rows):
                for j, column in enumerate(columns):
                    if knockouts := blocked(row, column, layers, settings.num_latents):
                        cells[e, i, j] = runs.add(Run(BASE, knockouts=knockouts))
        return Plan(tuple(runs.all), cells, grid)


def blocked(
    row: Any, column: Any, layers: tuple[int, ...], num_latents: int
) -> tuple[Knockout, ...]:
    """What the steps of a row cannot see of a column's, each what comes before it; none if nothing does."""
    order: list[Step] = ["prompt", *steps_of(num_latents), "answer"]
    latents: tuple[Step, ...] = tuple(range(num_latents))
    groups: dict[Label, tuple[Any, ...]] = {
        QUESTION: ("prompt",),
        PROMPT: ("prompt", "bot"),
        LATENTS: latents,
        END: ("eot", "answer"),
    }
    found: list[Knockout] = []
    for query in groups.get(row, (row,)):
        before = order[: order.index(query)]
        keys = tuple(key for key in groups.get(column, (column,)) if key in before)
        if keys:
            found.append(Knockout((query,), keys, layers))
    return tuple(found)
