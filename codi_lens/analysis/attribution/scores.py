"""Attribution of places: (source − base) · ∂metric/∂activation, for all places of a map at once.

Plain attribution (Nanda 2023; Syed et al., arXiv 2310.10348) takes the gradient in the base run. Where the answer is
saturated there it misses what matters most, so the default integrates: the mean gradient over prompts between the
base's and the source's (EAP-IG, Hanna et al., arXiv 2403.17806), by the midpoint rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.attribution.fidelity import Fidelity, measure_fidelity
from codi_lens.analysis.attribution.gradients import (
    Asked,
    gradients,
    measured,
    run,
    unpatched,
)
from codi_lens.choices import Direction
from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError, known_options, one_of, whole_number
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import AddressedHook, HookFn, Site, by_query
from codi_lens.patching.checks import check_pairs, check_patterns
from codi_lens.patching.labelled import PAIR, Labelled, known_of
from codi_lens.patching.plan import grid_of
from codi_lens.patching.settings import Label, Settings
from codi_lens.patching.sweep import make_settings

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

METHODS = ("integrated", "gradient")
HELD = {"total": False, "direct": True}
"""Effects that a gradient can tell apart -> whether the thoughts are held, so that nothing flows through them."""
PAIRS = 4
"""Side by side, each with all its integration steps."""


@dataclass(frozen=True)
class Attribution:
    """A score for every place: an estimate of what exchanging it does to the metric."""

    settings: Settings
    method: str
    steps: int
    metric: str
    pairs: tuple[Pair, ...]
    scores: Float[Tensor, "pair row column"]
    """In units of the metric, such as logits."""
    interpolated: tuple[bool, ...]
    """Of each pair, whether prompts were interpolated; else, of unequal length, the thoughts that are fed."""
    fidelity: Fidelity | None = None

    @property
    def rows(self) -> tuple[Label, ...]:
        """Labels of the rows."""
        return self.settings.layers

    @property
    def columns(self) -> tuple[Label, ...]:
        """Labels of the columns: steps of the loop."""
        return self.settings.positions

    def mean(self) -> Float[Tensor, "row column"]:
        """The mean over pairs."""
        return self.scores.mean(0)

    def to_dataframe(self) -> "pd.DataFrame":
        """The scores in long form, a row for every pair and place. Of pandas; needs the extra `data`."""
        return self._labelled().to_dataframe()

    def to_xarray(self) -> "xr.Dataset":
        """The scores as an array [pair, row, column] with its labels. Needs the extra `data`."""
        return self._labelled().to_xarray()

    def _labelled(self) -> Labelled:
        about = {"method": self.method, "steps": str(self.steps), "metric": self.metric}
        return Labelled(
            {
                PAIR: [pair.pair_id for pair in self.pairs],
                "row": self.rows,
                "column": self.columns,
            },
            known_of(self.pairs) | {"prompt_interpolated": ((PAIR,), list(self.interpolated))},
            {"score": ((PAIR, "row", "column"), self.scores.numpy())},
            self.settings,
            about,
        )


@known_options
def attribute(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    *,
    places: Sequence[Label] | None = None,
    positions: Sequence[Label] | None = None,
    site: str = "resid_post",
    method: Literal["integrated", "gradient"] = "integrated",
    steps: int = 10,
    effect: Literal["total", "direct"] = "total",
    direction: Direction = "denoise",
    metric: str = "logit_diff",
    num_latents: int | None = None,
    fidelity_cells: int = 200,
    seed: int = 0,
) -> Attribution:
    """Scores all places in one backward pass per integration step.

    Args:
        codi: the model.
        pairs: clean and corrupted questions. Prompts of unequal length cannot be interpolated: for such pairs the
            integral is over what is fed from the first thought on, between the base's and the source's.
        places: rows, as `patch_positions(layers=…)` takes them; all layers (or heads) at the site if None.
        positions: latents, and "bot" and "eot"; all latents if None.
        site: as in `patch_positions`.
        method: "integrated", or "gradient" in the base run alone.
        steps: of the integral.
        effect: "total": through later thoughts too; "direct": these are held.
        direction: "denoise": the base is the corrupted run.
        metric: any of `patching.metrics` that has a gradient.
        num_latents: thoughts; the model's own number if None.
        fidelity_cells: cells, drawn at random over pairs and places, that are patched exactly to be compared with;
            0: none.
        seed: of that draw.

    Returns:
        Scores [pair, row, column] with their fidelity.

    Raises:
        UserError: settings that the model cannot be run with, or a metric without a gradient.
    """
    one_of(method, METHODS, "method")
    one_of(effect, HELD, "effect")
    whole_number(steps, "steps", at_least=1)
    whole_number(fidelity_cells, "fidelity_cells")
    settings = make_settings(
        codi,
        layers=places,
        positions=positions,
        num_latents=num_latents,
        site=site,
        effect=effect,
        direction=direction,
        seed=seed,
    )
    if not pairs:
        raise UserError("there are no pairs to attribute")
    check_pairs(codi, pairs, settings.num_latents)
    check_patterns(codi, pairs, settings)
    found: list[Tensor] = []
    equal: list[bool] = []
    for start in range(0, len(pairs), PAIRS):
        part = pairs[start : start + PAIRS]
        asked = Asked(codi, part, direction, metric, settings.num_latents)
        scores, same = _attributed(asked, settings, steps if method == "integrated" else 0)
        found.append(scores)
        equal += same
    done = Attribution(
        settings, method, steps, metric, tuple(pairs), torch.cat(found), tuple(equal)
    )
    if fidelity_cells:
        exact = measure_fidelity(codi, pairs, settings, metric, done.scores, fidelity_cells)
        done = replace(done, fidelity=exact)
    return done


def _attributed(
    asked: Asked, settings: Settings, steps: int
) -> tuple[Float[Tensor, "pair row column"], list[bool]]:
    """Scores of a few pairs; `steps` 0: the gradient in the base run."""
    grid = grid_of(settings)
    slopes, base, source, equal = mean_slopes(asked, settings, steps)
    scores = torch.zeros(len(asked.pairs), len(grid), dtype=torch.float64)
    for i, place in enumerate(grid):
        for site in place:
            whole = Site(site.name, site.step)
            scores[:, i] += _dot(slopes[whole], source[whole] - base[whole], site)
    return scores.unflatten(1, (len(settings.layers), len(settings.positions))), equal


def mean_slopes(
    asked: Asked, settings: Settings, steps: int
) -> tuple[dict[Site, Tensor], Mapping[Site, Tensor], Mapping[Site, Tensor], list[bool]]:
    """The mean gradient of each pair's metric at every place of a map; `steps` 0: that in the base run.

    Returns:
        Site (whole) -> gradient [pair, pos, …], its activations in the base and in the source run, and of each
        pair whether its prompts were interpolated.
    """
    sites = [site for place in grid_of(settings) for site in place]
    fed = [Site("hook_embed", step) for step in range(settings.num_latents)]
    plain, base, source = unpatched(asked, [*sites, *fed])
    count = max(steps, 1)
    rows = [pair for pair in range(len(asked.pairs)) for _ in range(count)]
    shares = torch.tensor(
        [(step + 0.5) / steps if steps else 0.0 for step in range(count)], dtype=torch.float64
    )
    share = shares.repeat(len(asked.pairs)).to(asked.codi.loop.device)
    kept_base, kept_source = base.kept["clean"], source.kept["clean"]
    hooks, equal = between(asked, rows, share, kept_base, kept_source)
    if HELD[settings.effects[0]]:
        hooks += [(site, _cut) for site in fed]
    questions = [asked.questions(asked.base_side)[row] for row in rows]
    with torch.enable_grad():
        runs = run(asked, questions, rows, sites, hooks)
        values = measured(asked, runs, rows, plain)
        slopes = gradients(asked, values, runs)
    means = {
        site: slope.unflatten(0, (len(asked.pairs), count)).mean(1)
        for site, slope in slopes.items()
    }
    return means, kept_base, kept_source, equal


def _dot(slope: Tensor, change: Tensor, site: Site) -> Tensor:
    """Their product at a site's last position [pair], over its part of the axis behind it."""
    product = slope * change
    product = (product[:, :, -1] if by_query(site.name) else product[:, -1]).detach().cpu().double()
    if (part := site.part) is not None:
        product = product[:, [part] if isinstance(part, int) else list(part)]
    return product.flatten(1).sum(1)


def between(
    asked: Asked,
    rows: Sequence[int],
    share: Float[Tensor, " row"],
    base: Mapping[Site, Tensor],
    source: Mapping[Site, Tensor],
) -> tuple[list[AddressedHook], list[bool]]:
    """Hooks that put each row between its pair's runs, and of each pair whether that is done to its prompt."""
    codi, index = asked.codi, torch.tensor(rows)
    own, other = asked.questions(asked.base_side), asked.questions(asked.source_side)
    lengths = [[len(codi.tokens.prompt(q)) for q in side] for side in (own, other)]
    equal = [a == b for a, b in zip(*lengths, strict=True)]
    moved = [q if same else mine for q, mine, same in zip(other, own, equal, strict=True)]
    embedded = [codi.loop.embed(codi.tokens.prompts(side)[0]) for side in (own, moved)]
    share = share.to(embedded[0].dtype)
    change = (embedded[1] - embedded[0])[index] * share[:, None, None]
    hooks: list[AddressedHook] = [
        (Site("hook_embed", "prompt"), _add(change[:, :-1])),
        (Site("hook_embed", "bot"), _add(change[:, -1:])),
    ]
    if not all(equal):
        unequal = ~torch.tensor(equal, device=share.device)[index][:, None, None]
        for step in range(asked.num_latents):
            fed = Site("hook_embed", step)
            target = torch.lerp(base[fed][index], source[fed][index], share[:, None, None])
            hooks.append((fed, _towards(target, unequal)))
    return hooks, equal


def _add(change: Tensor) -> HookFn:
    return lambda activation, hook: activation + change


def _towards(target: Tensor, rows: Tensor) -> HookFn:
    """Moves some rows to a value, and lets the gradient through as if nothing had been moved."""

    def hook_fn(activation: Tensor, hook: object) -> Tensor:
        return activation + torch.where(rows, target - activation, 0.0).detach()

    return hook_fn


def _cut(activation: Tensor, hook: object) -> Tensor:
    return activation.detach()
