"""What goes in at the places of a sweep: interventions by name, and the user's own.

* source: the source run's activation (activation patching).
* zero, mean: zero ablation; the mean over a set of questions, per place and step (mean ablation).
* resample: the activation of another pair's source run (resample ablation; Chan et al., 2022).
* random: as far from the base as the source's, in a random direction.
* steer: the run's own plus `strength` · (mean over clean − mean over corrupted questions) (steering by a difference of
  means; Rimsky et al., arXiv 2312.06681).

What is put in says what is asked: from the other run, whether a place is sufficient (denoising) or its content
matters; a constant into the model's own run (noising), whether the place is necessary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.choices import INTERVENTIONS
from codi_lens.data.pairs import SIDES, Pair, Side, side_of
from codi_lens.errors import UserError, one_of
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Site, by_query
from codi_lens.patching.checks import check_pairs
from codi_lens.patching.effects import random_directions
from codi_lens.patching.interventions import Add, Intervention, constant
from codi_lens.patching.means import mean_activations
from codi_lens.patching.plan import DONOR, SOURCE, Place, SourceOf, grid_of, run_of
from codi_lens.patching.settings import Settings

CUSTOM = "custom"
"""The name of an intervention of the user's."""


@dataclass(frozen=True)
class Replacement:
    """What goes in at the places of a sweep."""

    source: Callable[[int], SourceOf]
    """For a pair's number in the list: what is put in at a site."""
    needs_donor: bool = False
    data: Sequence[Pair] = field(default=(), repr=False)
    """Pairs over whose questions it takes means."""
    saved: Sequence[Tensor] = field(default=(), repr=False)
    """Activations of an earlier run that it puts in."""


@dataclass(frozen=True)
class Asked:
    """What replacements are made from."""

    codi: HookedCodi
    settings: Settings
    pairs: Sequence[Pair]
    """Of the sweep."""
    data: Sequence[Pair]
    """Over whose questions means are taken."""
    places: Sequence[Place]
    """Where something will be put in."""

    def means(self) -> dict[Side, Mapping[Site, Float[Tensor, "..."]]]:
        """The mean activation at every site, over the questions of each side.

        Raises:
            UserError: an attention pattern, which has none.
        """
        sites = [site for place in self.places for site in place]
        if patterns := [site.name for site in sites if by_query(site.name)]:
            raise UserError(f"{patterns[0]} has no mean: it is as wide as a prompt is long")
        return {
            side: mean_activations(
                self.codi,
                [side_of(pair, side).question for pair in self.data],
                sites,
                self.settings.num_latents,
            )
            for side in SIDES
        }


def _run(run: int, needs_donor: bool = False) -> Callable[[Asked], Replacement]:
    return lambda _: Replacement(lambda _: run_of(run), needs_donor)


def _zero(asked: Asked) -> Replacement:
    return Replacement(lambda _: lambda site: constant(torch.zeros(())))


def _mean(asked: Asked) -> Replacement:
    clean, corrupted = asked.means().values()
    means = {site: (clean[site] + corrupted[site]) / 2 for site in clean}
    return Replacement(lambda _: lambda site: constant(means[site]), data=asked.data)


def _random(asked: Asked) -> Replacement:
    ids = [pair.pair_id for pair in asked.pairs]
    return Replacement(lambda pair: random_directions(asked.settings.seed, ids[pair]))


def _steer(asked: Asked) -> Replacement:
    means, strength = asked.means(), asked.settings.strength
    vectors = {site: mean - means["corrupted"][site] for site, mean in means["clean"].items()}
    return Replacement(lambda _: lambda site: Add((), vectors[site], strength), data=asked.data)


@dataclass(frozen=True)
class Maker:
    """What makes a replacement, and what it asks beside the model and the pairs."""

    make: Callable[[Asked], Replacement]
    uses: frozenset[str] = frozenset()
    """Of "data" and "strength": what it would otherwise ignore."""


REPLACEMENTS: dict[str, Maker] = {
    "source": Maker(_run(SOURCE)),
    "zero": Maker(_zero),
    "mean": Maker(_mean, frozenset({"data"})),
    "resample": Maker(_run(DONOR, needs_donor=True)),
    "random": Maker(_random),
    "steer": Maker(_steer, frozenset({"data", "strength"})),
}
"""By name; the user's own can be added."""


def make_replacement(
    codi: HookedCodi,
    settings: Settings,
    pairs: Sequence[Pair],
    data: Sequence[Pair] | None = None,
    places: Sequence[Place] | None = None,
) -> Replacement:
    """The replacement that the settings name.

    Args:
        pairs: those of the sweep.
        data: pairs whose questions, of both sides, means are taken over; None: those of the sweep.
        places: where something will be put in; None: the settings' grid.

    Raises:
        UserError: no such intervention, or a mean that does not exist.
    """
    maker = REPLACEMENTS[one_of(settings.intervention, REPLACEMENTS, "intervention")]
    given = {"data": data is not None, "strength": settings.strength != 1}
    for name in (name for name, said in given.items() if said and name not in maker.uses):
        others = ", ".join(other for other, one in REPLACEMENTS.items() if name in one.uses)
        raise UserError(
            f"{name} means nothing to the intervention {settings.intervention!r}; leave it out ({others} would use it)"
        )
    check_pairs(codi, pairs, settings.num_latents)
    return maker.make(Asked(codi, settings, pairs, data or pairs, places or grid_of(settings)))


def custom(what: Intervention | SourceOf) -> Replacement:
    """The user's own: one intervention for all places, or a function from a site to one."""
    if isinstance(what, Intervention):
        return Replacement(lambda _: lambda site: what)
    return Replacement(lambda _: what)


def saved_activations(
    settings: Settings, saved: Sequence[Float[Tensor, "layer position width"]]
) -> Replacement:
    """For each pair, source activations that were kept, instead of the source run's own.

    Raises:
        UserError: rows of different widths, which a record keeps in one tensor, or another intervention.
    """
    if settings.intervention != INTERVENTIONS[0]:
        raise UserError(
            f"saved activations are put in as they are; leave out the intervention {settings.intervention!r}"
        )
    grid = grid_of(settings)
    if len({(len(place), place[0].part is None) for place in grid}) > 1:
        raise UserError("saved activations can be used for rows of one kind; leave out the others")

    def source(pair: int) -> SourceOf:
        values: Mapping[Site, Tensor] = {
            site: value
            for place, kept in zip(grid, saved[pair].flatten(0, 1), strict=True)
            for site, value in zip(place, kept.chunk(len(place)), strict=True)
        }
        return lambda site: constant(values[site])

    return Replacement(source, saved=list(saved))
