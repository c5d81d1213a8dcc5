"""Activations of a set of questions, and their means: what mean ablation puts in, and what steering adds."""

from collections.abc import Iterator, Mapping, Sequence

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
    sums: dict[Site, Tensor] = {}
    for kept in _batches(codi, questions, sites, num_latents):
        for site, value in kept.items():
            total = value.double().sum(0)
            sums[site] = sums[site] + total if site in sums else total
    return {site: value / len(questions) for site, value in sums.items()}


def activations(
    codi: HookedCodi,
    questions: Sequence[str],
    sites: Sequence[Site],
    num_latents: int | None = None,
) -> Mapping[Site, Float[Tensor, "question ..."]]:
    """The activation of every question at each site, at the last position of its step.

    Arguments and errors as in `mean_activations`.

    Returns:
        Site -> activations, such as [question, d_model]; as the model has them.
    """
    found = list(_batches(codi, questions, sites, num_latents))
    return {site: torch.cat([kept[site] for kept in found]) for site in found[0]}


@torch.no_grad()
def _batches(
    codi: HookedCodi, questions: Sequence[str], sites: Sequence[Site], num_latents: int | None
) -> Iterator[dict[Site, Float[Tensor, "batch ..."]]]:
    """Activations at the sites, batch by batch."""
    if not questions:
        raise UserError("there are no questions to look at")
    latents = codi.num_latents(num_latents)
    prompts = [codi.tokens.prompt(question) for question in questions]
    fitting = fitting_rows(
        codi.model.cfg, codi.loop.device, prompt=max(map(len, prompts)), latents=latents, answer=2
    )

    def kept(batch: Sequence[str]) -> list[dict[Site, Tensor]]:
        runs = [Run(i, capture=tuple(dict.fromkeys(sites))) for i in range(len(batch))]
        done = run_batch(codi, batch, runs, latents)
        feed_eot(codi, done)
        rows = range(len(batch))
        return [
            {site: torch.stack([done.captured[i, site] for i in rows]) for site in runs[0].capture}
        ]

    # As many at a time whatever the memory, so that the same call gives the same sums.
    rows = min(fitting, ROWS)
    yield from in_batches(list(questions), rows, kept, unit="question", less="fewer questions")
