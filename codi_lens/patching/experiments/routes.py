"""Routes: by being fed on, or by being attended to, does a thought reach the answer?"""

from collections.abc import Sequence

import torch

from codi_lens.choices import CONTROLS
from codi_lens.model.hooks import Site
from codi_lens.patching.effects import IDENTITY, RANDOM_DIRECTION, RESAMPLE, random_directions
from codi_lens.patching.experiments.base import Experiment
from codi_lens.patching.experiments.windows import ALL_LAYERS, latents_of, windows
from codi_lens.patching.interventions import from_run
from codi_lens.patching.plan import (
    BASE,
    DONOR,
    NONE,
    SOURCE,
    Given,
    Plan,
    Runs,
    SourceOf,
    grid_of,
    patches,
    run_of,
)
from codi_lens.patching.schedule import Patch, Run
from codi_lens.patching.settings import Label, Settings

STATE, ALL, ANSWER = "state", "all", "kv to the answer"
READ = {"k": ("hook_k",), "v": ("hook_v",), "kv": ("hook_k", "hook_v")}
"""Route -> what later steps attend to."""
EFFECTS = LATENT, TAIL = ("latent", "tail")


class Routes(Experiment):
    """Does what is computed at a latent reach the answer as a state, or by keys and values?

    For every latent k, in the base run:

    * state: the thought fed at k + 1 is the source run's; keys and values of k stay.
    * k, v, kv: keys, values, or both of step k are the source run's, and the thought fed at k + 1 is held at the
      base's (a latent attends to itself, so that its state would move too). Later thoughts are recomputed.
    * all: state and kv together.
    * kv to the answer: keys and values of k are the source run's for eot and the answer alone; later thoughts attend to
      the base's.

    "latent" exchanges this latent alone, "tail" all from it to the last. Rows with a window exchange the keys and values of
    these layers alone. With `values="patched"`, what is exchanged is not the source run's but that of the base run
    with the source's thought fed at k: then "all" equals the total effect of patching that thought (a law). The
    last latent feeds no other, so it has no state. Controls put something else in, at one latent.
    """

    name = "routes"
    title = "routes"
    heading = "Routes out of a latent"
    across = "latent"
    cells_key = "route_results"
    cell_names = ("route", "latent")
    uses = frozenset({"window", "values"})
    has_effects = False

    def subject(self, settings: Settings) -> str:
        return f"the {settings.values} run's activations exchanged"

    def down(self, settings: Settings) -> str:
        return "route"

    def effects(self, settings: Settings) -> tuple[Label, ...]:
        return EFFECTS + (CONTROLS if settings.controls else ())

    def rows(self, settings: Settings) -> tuple[Label, ...]:
        parts = [name for name in windows(settings) if name != ALL_LAYERS]
        return (
            STATE,
            *READ,
            ANSWER,
            ALL,
            *(f"{route}, {part}" for part in parts for route in READ),
        )

    def columns(self, settings: Settings) -> tuple[Label, ...]:
        return latents_of(settings)

    def plan(self, settings: Settings, given: Given) -> Plan:
        latents, rows = latents_of(settings), self.rows(settings)
        grid = grid_of(settings)
        runs = Runs(grid, given.with_donor)
        cells = torch.full((len(self.effects(settings)), len(rows), len(latents)), NONE)
        for j, latent in enumerate(latents):
            taken = SOURCE
            if settings.values == "patched":
                thought = Patch(Site("hook_embed", latent), from_run(SOURCE))
                taken = runs.add(Run(BASE, (thought,)))
            tail = range(latent, settings.num_latents)
            of_effect: dict[Label, tuple[Sequence[int], SourceOf]] = {
                LATENT: ([latent], run_of(taken)),
                TAIL: (tail, run_of(taken)),
                IDENTITY: ([latent], run_of(BASE)),
                RESAMPLE: ([latent], run_of(DONOR)),
                RANDOM_DIRECTION: ([latent], random_directions(settings.seed, given.pair_id)),
            }
            for e, effect in enumerate(self.effects(settings)):
                for i, row in enumerate(rows if effect != RESAMPLE or given.with_donor else ()):
                    steps, source = of_effect[effect]
                    if row == ANSWER:
                        lent = exchange("kv", steps, settings, source)
                        seen = runs.add(Run(BASE, lent, BASE))
                        remembers = tuple((step, seen) for step in steps)
                        cells[e, i, j] = runs.add(Run(BASE, remembers=remembers))
                    elif exchanged := exchange(str(row), steps, settings, source):
                        cells[e, i, j] = runs.add(Run(BASE, exchanged))
        return Plan(tuple(runs.all), cells, grid)


def exchange(
    row: str, latents: Sequence[int], settings: Settings, source: SourceOf
) -> tuple[Patch, ...]:
    """The patches of one route at some latents; none where there is no such route."""
    route, _, window = row.partition(", ")
    layers = windows(settings)[window or ALL_LAYERS]
    fed = [step + 1 for step in latents if step + 1 < settings.num_latents]
    thoughts = [(Site("hook_embed", step),) for step in fed]
    hooks = READ.get("kv" if route == ALL else route, ())
    attended = [
        tuple(Site(f"blocks.{layer}.attn.{hook}", step) for hook in hooks)
        for step in latents
        for layer in layers
    ]
    exchanged = patches(attended, source)
    if route in READ:
        return exchanged + patches(thoughts, run_of(BASE))
    return exchanged + patches(thoughts, source)
