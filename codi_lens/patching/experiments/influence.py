"""Influence: what does exchanging one thought do to the later ones, and to the answer?"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Site
from codi_lens.patching.answer_logits import kl, raised
from codi_lens.patching.effects import Cell, add_cell, random_directions
from codi_lens.patching.experiments.base import Experiment
from codi_lens.patching.experiments.windows import latents_of
from codi_lens.patching.metrics import Metric, register_metric
from codi_lens.patching.plan import NONE, Given, Place, Plan, Runs
from codi_lens.patching.settings import Label, Settings

ANSWER = "answer"
DISTANCE, CHANGE, KL = (
    register_metric(metric).name
    for metric in (
        Metric("thought_distance", "1 − cosine of the thought with the base run's", ranks=True),
        Metric("thought_change", "‖thought − base run's‖ / ‖base run's‖", ranks=True),
        Metric("thought_kl", "KL(patched ‖ base) of the thought's logit lens, nats", ranks=True),
    )
)


class Influence(Experiment):
    """Which thoughts do what others become depend on?

    Thought i (a row) is exchanged for what the intervention says (another run's, zero, a mean …), and the thoughts
    j > i (columns) that the model then makes are compared with the base run's; the column "answer" has the metrics of
    the answer. The logit lens of a thought reads the state before the projection, after the final norm.
    """

    name = "influence"
    title = "influence of thoughts"
    heading = "Influence of thoughts"
    across = "later thought"
    cells_key = "influence_results"
    cell_names = ("thought", "on")
    uses = frozenset({"intervention", "strength"})
    shows = ("thought_distance", "thought_kl", "prediction_change_rate", "base_given")
    has_effects = False

    def subject(self, settings: Settings) -> str:
        return f"thought exchanged: {settings.intervention}"

    def down(self, settings: Settings) -> str:
        return "exchanged thought"

    def filled(self, codi: HookedCodi, settings: Settings) -> Settings:
        """What a thought is made of is kept: the last layer's output."""
        return replace(settings, layers=(codi.model.cfg.n_layers - 1,), site="resid_post")

    def rows(self, settings: Settings) -> tuple[Label, ...]:
        return latents_of(settings)

    def columns(self, settings: Settings) -> tuple[Label, ...]:
        return (*latents_of(settings), ANSWER)

    def places(self, settings: Settings) -> tuple[Place, ...]:
        return tuple((Site("hook_embed", step),) for step in latents_of(settings))

    def plan(self, settings: Settings, given: Given) -> Plan:
        latents = latents_of(settings)
        # What a thought is made of: the last layer's output at the step before.
        last = f"blocks.{given.num_layers - 1}.hook_resid_post"
        grid = tuple((Site(last, step - 1 if step else "bot"),) for step in latents)
        runs = Runs(grid, given.with_donor)
        shape = (len(settings.effects), len(latents), len(latents) + 1)
        cells, generated = torch.full(shape, NONE), torch.full((*shape, 2), NONE)
        random = random_directions(settings.seed, given.pair_id)
        for i, place in enumerate(self.places(settings)):
            later = [j for j, step in enumerate(latents) if step > latents[i]]
            kept = tuple(grid[j][0] for j in later)
            made = add_cell(Cell(runs, settings, [place], given.source, random, kept))
            cells[:, i, -1] = torch.tensor(made)
            for e, run in enumerate(made):
                for j in later if run != NONE else ():
                    generated[e, i, j] = torch.tensor([run, j])
        return Plan(tuple(runs.all), cells, grid, generated)

    def derived(
        self,
        codi: HookedCodi,
        settings: Settings,
        generated: Float[Tensor, "effect row column width"],
        base: Float[Tensor, "1 position width"],
        source: Float[Tensor, "1 position width"],
    ) -> dict[str, Float[Tensor, "effect row column"]]:
        def read(resid: Tensor) -> tuple[Tensor, Tensor]:
            """Thoughts, and their log-probabilities through the logit lens."""
            final = codi.model.ln_final(resid.to(codi.loop.device))
            lens = raised(codi.loop.unembed(final)).log_softmax(-1)
            return raised(codi.loop.project(final)).cpu(), lens.cpu()

        thoughts, lens = read(generated[:, :, :-1])
        own, own_lens = read(base[0])
        change = (thoughts - own).norm(dim=-1) / own.norm(dim=-1)
        distance = 1 - cosine_similarity(thoughts, own.expand_as(thoughts), dim=-1)
        found = {
            DISTANCE: distance,
            CHANGE: change,
            KL: kl(lens[..., None, :], own_lens[..., None, :]),
        }
        nowhere = torch.full_like(distance[..., :1], torch.nan)
        return {name: torch.cat([value, nowhere], -1) for name, value in found.items()}
