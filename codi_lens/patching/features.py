"""Features: activations through a dictionary, with what it does not explain kept.

A dictionary is any object with `encode` and `decode`: a sparse autoencoder (SAELens' too), a basis, one's own. It is spliced in with
its error term (Marks et al., arXiv 2403.19647): activation = decode(encode(activation)) + error. So nothing changes by
the splicing, and what goes in is

    own + decode(changed features) − decode(own features).

The dictionary must reconstruct the activation that it encodes; a transcoder, which predicts another one, does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from codi_lens.choices import Direction, EffectChoice
from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError, known_options, one_of, whole_number
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Site
from codi_lens.patching.checks import check_pairs
from codi_lens.patching.effects import Cell, add_cell, random_directions
from codi_lens.patching.experiments.positions import Positions
from codi_lens.patching.interventions import Activation, Intervention
from codi_lens.patching.means import activations
from codi_lens.patching.plan import SOURCE, Given, Plan, Runs, SourceOf, grid_of, vector_at
from codi_lens.patching.result import Sweep
from codi_lens.patching.settings import Label, Settings
from codi_lens.patching.sweep import make_settings, run_experiment

READS: dict[str, tuple[int, ...]] = {"patch": (SOURCE,), "ablate": ()}
"""What is done to features -> the runs that are looked at."""


class Dictionary(Protocol):
    """Features of an activation, and back."""

    def encode(self, x: Tensor, /) -> Tensor:
        """[…, width] -> […, feature]."""

    def decode(self, features: Tensor, /) -> Tensor:
        """[…, feature] -> […, width]."""


@dataclass(frozen=True)
class Features(Intervention):
    """own + decode(changed) − decode(encode(own)): some features are those of the run that is read, or zero if none is."""

    dictionary: Dictionary
    indices: tuple[int, ...]

    def value(self, own: Activation, *read: Activation) -> Activation:
        return self.values([self], own[None], *(one[None] for one in read))[0]

    @classmethod
    def values(cls, many: Sequence[Self], own: Activation, *read: Activation) -> Activation:
        out = own.clone()
        for dictionary in {id(one.dictionary): one.dictionary for one in many}.values():
            rows = [i for i, one in enumerate(many) if one.dictionary is dictionary]
            before = dictionary.encode(own[rows])
            after = before.clone()
            other = dictionary.encode(read[0][rows]) if read else torch.zeros_like(before)
            chosen = [(i, k) for i, row in enumerate(rows) for k in many[row].indices]
            at = tuple(torch.tensor(chosen, dtype=torch.long, device=own.device).view(-1, 2).T)
            after[at] = other[at]
            # The difference first: where no feature is changed it is 0, and `own` stays to the bit.
            out[rows] += (dictionary.decode(after) - dictionary.decode(before)).to(own)
        return out


class FeatureCells(Positions):
    """One feature at one step in each cell."""

    cell_names = ("feature", "position")
    name, title = "feature_patching", "feature-wise"

    def __init__(self, dictionary: Dictionary, features: Sequence[int], how: str) -> None:
        self.dictionary = dictionary
        self.features = tuple(features)
        self.how = how

    def rows(self, settings: Settings) -> tuple[Label, ...]:
        return self.features

    def down(self, settings: Settings) -> str:
        return "feature"

    def subject(self, settings: Settings) -> str:
        done = "put in from the other run" if READS[self.how] else "set to zero"
        return f"features of {settings.site} at {settings.layers[0]}, {done}"

    def put_in(self, feature: int) -> SourceOf:
        """What goes in at a cell of a feature's row."""
        what = Features(READS[self.how], self.dictionary, (feature,))
        return lambda _: what

    def plan(self, settings: Settings, given: Given) -> Plan:
        grid = grid_of(settings)
        runs = Runs(grid, given.with_donor)
        random_ones = random_directions(settings.seed, given.pair_id)
        made = []
        for feature in self.features:
            put = self.put_in(feature)
            made += [add_cell(Cell(runs, settings, [at], put, random_ones)) for at in grid]
        shape = len(settings.effects), len(self.features), len(settings.positions)
        return Plan(tuple(runs.all), torch.tensor(made).T.reshape(shape), grid)


@known_options
def patch_features(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    dictionary: Dictionary,
    place: Label,
    positions: Sequence[Label] | None,
    features: Sequence[int],
    *,
    how: Literal["patch", "ablate"] = "patch",
    site: str = "resid_post",
    num_latents: int | None = None,
    effect: EffectChoice = "total",
    direction: Direction = "denoise",
    seed: int = 0,
    batch_rows: int | None = None,
) -> Sweep:
    """Patches, or ablates, every feature × step of every pair, one at a time.

    Args:
        codi: the model.
        pairs: clean and corrupted questions.
        dictionary: of the activation at the place; see `Dictionary`.
        place: a row as in `patch_positions`: a layer, "thought", a head ….
        positions: latents, and "bot" and "eot"; all latents if None.
        features: by index, the rows of the map. `analysis.features.attribute_features` says which are worth it.
        how: "patch": the source run's value goes in; "ablate": zero does.
        site, num_latents, effect, direction, seed, batch_rows: as in `patch_positions`.

    Returns:
        Metrics [pair, effect, row (feature), column (position)].

    Raises:
        UserError: a dictionary that does not fit the place, or a feature that it does not have.
    """
    one_of(how, READS, "how")
    settings = make_settings(
        codi,
        layers=[place],
        positions=positions,
        num_latents=num_latents,
        site=site,
        effect=effect,
        direction=direction,
        seed=seed,
    )
    check_pairs(codi, pairs, settings.num_latents)
    count = feature_count(codi, dictionary, settings, pairs[0].clean.question)
    chosen = [whole_number(feature, "a feature") for feature in features]
    if not chosen or max(chosen) >= count or len(set(chosen)) < len(chosen):
        raise UserError(f"features {chosen[:20]}: give different numbers from 0 to {count - 1}")
    experiment = FeatureCells(dictionary, chosen, how)
    return run_experiment(experiment, codi, pairs, settings, batch_rows=batch_rows)


def feature_count(
    codi: HookedCodi, dictionary: Dictionary, settings: Settings, question: str
) -> int:
    """How many features an activation at the first row and column has.

    Raises:
        UserError: the dictionary does not take it, or does not give it back in its shape.
    """
    site: Site = vector_at(settings, settings.layers[0], settings.positions[0])
    (own,) = activations(codi, [question], [site], settings.num_latents).values()
    try:
        features = dictionary.encode(own)
        shape = tuple(dictionary.decode(features).shape)
    except (RuntimeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the dictionary does not take an activation {tuple(own.shape)} of {site.name}: {error}"
        ) from error
    if shape != tuple(own.shape):
        raise UserError(
            f"the dictionary makes {shape} of an activation {tuple(own.shape)} of {site.name}; give one of this place"
        )
    return int(features.shape[-1])
