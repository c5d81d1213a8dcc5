"""Attribution of features: (source − base) · ∂metric/∂feature, for all features of a dictionary at once.

The gradient at the place, as `analysis.attribution` takes it, goes back through the dictionary's decoder. Its error term is held
(Marks et al., arXiv 2403.19647).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.attribution.gradients import Asked
from codi_lens.analysis.attribution.scores import HELD, METHODS, PAIRS, mean_slopes
from codi_lens.choices import Direction
from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError, known_options, one_of, whole_number
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Site
from codi_lens.patching.checks import check_pairs
from codi_lens.patching.features import Dictionary, feature_count
from codi_lens.patching.plan import vector_at
from codi_lens.patching.settings import Label, Settings
from codi_lens.patching.sweep import make_settings


@known_options
def attribute_features(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    dictionary: Dictionary,
    place: Label,
    positions: Sequence[Label] | None = None,
    *,
    site: str = "resid_post",
    method: Literal["integrated", "gradient"] = "integrated",
    steps: int = 10,
    effect: Literal["total", "direct"] = "total",
    direction: Direction = "denoise",
    metric: str = "logit_diff",
    num_latents: int | None = None,
) -> Float[Tensor, "pair feature step"]:
    """Scores every feature at every step: an estimate of what exchanging it does to the metric.

    `patch_features` says what it does. Integrated scores share out among features what they do together: where the answer is
    saturated, one alone does less.

    Args:
        codi: the model.
        pairs: clean and corrupted questions.
        dictionary: of the activation at the place, with a decoder that can be differentiated.
        place: a row as in `patch_positions`.
        positions: latents, and "bot" and "eot"; all latents if None.
        site, method, steps, effect, direction, metric, num_latents: as in `attribute`.

    Raises:
        UserError: a dictionary that does not fit the place; else as `attribute`.
    """
    one_of(method, METHODS, "method")
    one_of(effect, HELD, "effect")
    settings = make_settings(
        codi,
        layers=[place],
        positions=positions,
        num_latents=num_latents,
        site=site,
        effect=effect,
        direction=direction,
    )
    if not pairs:
        raise UserError("there are no pairs to attribute")
    check_pairs(codi, pairs, settings.num_latents)
    feature_count(codi, dictionary, settings, pairs[0].clean.question)
    points = whole_number(steps, "steps", at_least=1) if method == "integrated" else 0
    found = []
    for start in range(0, len(pairs), PAIRS):
        part = pairs[start : start + PAIRS]
        asked = Asked(codi, part, direction, metric, settings.num_latents)
        found.append(_scores(asked, settings, dictionary, points))
    return torch.cat(found)


def _scores(
    asked: Asked, settings: Settings, dictionary: Dictionary, points: int
) -> Float[Tensor, "pair feature step"]:
    """Scores of a few pairs."""
    slopes, base, source, _ = mean_slopes(asked, settings, points)
    found = []
    for step in settings.positions:
        site = vector_at(settings, settings.layers[0], step)
        slope, own, other = (_last(kept, site) for kept in (slopes, base, source))
        before, after = dictionary.encode(own), dictionary.encode(other)
        with torch.enable_grad():
            before = before.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(dictionary.decode(before), before, slope)
        found.append(((after - before) * gradient).detach().cpu().double())
    return torch.stack(found, dim=-1)


def _last(kept: Mapping[Site, Tensor], site: Site) -> Float[Tensor, "pair width"]:
    """The part of an activation that a site names, at the last position of its step."""
    now = kept[Site(site.name, site.step)][:, -1]
    return now if site.part is None else now[:, site.part]
