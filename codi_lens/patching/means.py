"""Means of activations over a set of questions: what mean ablation puts in, and what steering adds."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.errors import UserError
from codi_lens.memory import fitting_rows, in_batches
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Site
from codi_lens.patching.engine import feed_eot, run_batch
from codi_lens.patching.schedule import Run

ROWS = 64
"""Questions side by side."""


@torch.no_grad()
def mean_activations(
    codi: HookedCodi,
    questions: Sequence[str],
    sites: Sequence[Site],
    num_latents: int | None = None,
) -> Mapping[Site, Float[Tensor, "..."]]:
    """The mean over questions of the activation at each site, at the last position of its step.

    Args:
        questions: each counts once for every time it is there.
        sites: hook points at bot, eot or a latent step, whole or a part of them.
        num_latents: thoughts; the model's own number if None.

    Returns:
        Site -> mean, in the shape that the activation has for one row, such as [d_model]; in float64.

    Raises:
        UserError: no questions, or a site that the run does not have.
    """
    if not questions:
        raise UserError("there are no questions to take means over")
    latents = codi.num_latents(num_latents)
    prompts = [codi.tokens.prompt(question) for question in questions]
    fitting = fitting_rows(
        codi.model.cfg, codi.loop.device, prompt=max(map(len, prompts)), latents=latents, answer=2
    )
    sums: dict[Site, Tensor] = {}

    def add(batch: Sequence[str]) -> list[int]:
        runs = [Run(i, capture=tuple(dict.fromkeys(sites))) for i in range(len(batch))]
        done = run_batch(codi, batch, runs, latents)
        feed_eot(codi, done)
        kept = {
            site: torch.stack([done.captured[i, site].double() for i in range(len(batch))]).sum(0)
            for site in runs[0].capture
        }
        # Nothing of a batch that does not fit is added: it is run again in halves.
        for site, value in kept.items():
            sums[site] = sums[site] + value if site in sums else value
        return [len(batch)]

    # As many at a time whatever the memory, so that the same call gives the same sums.
    rows = min(fitting, ROWS)
    total = sum(in_batches(list(questions), rows, add, unit="question", less="fewer questions"))
    return {site: value / total for site, value in sums.items()}
