"""Patchscopes (Ghandeharioun et al., arXiv 2401.06102): a state is put into another prompt, and the model speaks.

Also from thought to thought: what another question makes of a thought that it did not think.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.lenses.logit import log_shares
from codi_lens.errors import UserError
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import AddressedHook, HookFn, Site, Step, by_query, capture
from codi_lens.patching.places import check_row, sites_of
from codi_lens.patching.settings import Label

BATCH = 64
"""Cells side by side in a run."""


@dataclass(frozen=True, eq=False)
class Said:
    """What the model says of the target's question with a state of another run in it."""

    text: str
    first: Float[Tensor, " d_vocab"]
    """Probabilities of the first token said."""
    behind_stem: Float[Tensor, " d_vocab"] | None
    """Probabilities of the first token behind the answer's stem; None where the model did not say the stem."""


def patchscope(
    codi: HookedCodi,
    source: str,
    place: Label,
    step: Step,
    *,
    target: str,
    target_place: Label | None = None,
    target_step: Step | None = None,
    position: int = -1,
    target_position: int = -1,
    site: str = "resid_post",
    num_latents: int | None = None,
) -> Said:
    """Puts one state of a question's run into another question's, and lets the model answer.

    Args:
        codi: the model.
        source: the question whose state it is.
        place: where: a layer, "thought" (the vector that is fed), a head ..., as in `patch_positions`.
        step: when: "prompt", "bot", a latent, or "eot".
        target: the question that the state is put into.
        target_place, target_step: where and when there; None: as in the source.
        position, target_position: which token of a step that has several, as the prompt has; the last by default.
        site: of layers.
        num_latents: thoughts of both runs; the model's own if None.

    Raises:
        UserError: a place, step or position that there is not, or a state of another width.
    """
    cells = patchscope_map(
        codi,
        source,
        [place],
        [step],
        target=target,
        target_place=target_place,
        target_step=target_step,
        position=position,
        target_position=target_position,
        site=site,
        num_latents=num_latents,
    )
    return cells[0][0]


@torch.no_grad()
def patchscope_map(
    codi: HookedCodi,
    source: str,
    places: Sequence[Label],
    steps: Sequence[Step],
    *,
    target: str,
    target_place: Label | None = None,
    target_step: Step | None = None,
    position: int = -1,
    target_position: int = -1,
    site: str = "resid_post",
    num_latents: int | None = None,
) -> list[list[Said]]:
    """`patchscope` of every cell (place, step) of the source, side by side: [place][step]; arguments as there."""
    cells = [(place, step) for place in places for step in steps]
    there = [
        _site(
            codi,
            site,
            place if target_place is None else target_place,
            step if target_step is None else target_step,
        )
        for place, step in cells
    ]
    here = [_site(codi, site, *cell) for cell in cells]
    states = _states(codi, source, here, position, num_latents)
    said: list[Said] = []
    for start in range(0, len(cells), BATCH):
        part = slice(start, start + BATCH)
        said += _speak(codi, target, there[part], states[part], target_position, num_latents)
    return [said[i : i + len(steps)] for i in range(0, len(said), len(steps))]


def _site(codi: HookedCodi, site: str, place: Label, step: Step) -> Site:
    """The one activation that a place and a step mean."""
    check_row(place, codi)
    if step == "answer":
        raise UserError(
            "a state at step 'answer' is none of one pass; give prompt, bot, a latent or eot"
        )
    found = sites_of(site, place, step)
    if len(found) > 1 or by_query(found[0].name):
        names = " and ".join(str(one.name) for one in found)
        raise UserError(
            f"{place!r} at the site {site!r} is {names}, which is no state; give a site such as resid_post, z, k or v"
        )
    return found[0]


def _states(
    codi: HookedCodi, source: str, sites: Sequence[Site], position: int, num_latents: int | None
) -> list[Tensor]:
    """The source run's activation at each site."""
    kept: list[list[Tensor]] = [[] for _ in sites]
    hooks: list[AddressedHook] = [
        (site, capture(into)) for site, into in zip(sites, kept, strict=True)
    ]
    codi.run_with_hooks(source, fwd_hooks=hooks, num_latents=num_latents)
    return [
        activation[0, _checked(position, activation.shape[1], site)][
            ... if site.part is None else site.part
        ]
        for site, (activation,) in zip(sites, kept, strict=True)
    ]


def _speak(
    codi: HookedCodi,
    target: str,
    sites: Sequence[Site],
    states: Sequence[Tensor],
    position: int,
    num_latents: int | None,
) -> list[Said]:
    """The target's answer with each state in turn, a row each."""
    puts: list[AddressedHook] = [
        (site, _put(row, state, site, position))
        for row, (site, state) in enumerate(zip(sites, states, strict=True))
    ]
    run = codi.run_with_hooks([target] * len(sites), fwd_hooks=puts, num_latents=num_latents)
    stem, said = tuple(codi.tokens.stem()), []
    for logits, tokens in zip(run.logits, run.answer_tokens, strict=True):
        shares = log_shares(logits[: len(stem) + 1]).exp()
        behind = shares[len(stem)] if tokens[: len(stem)] == stem else None
        said.append(Said(codi.tokens.text(list(tokens)), shares[0], behind))
    return said


def _put(row: int, state: Tensor, site: Site, position: int) -> HookFn:
    """Puts a state into one row, at one position of the step."""

    def hook_fn(activation: Tensor, hook: object) -> Tensor:
        out = activation.clone()
        there = out[row, _checked(position, out.shape[1], site)]
        if site.part is not None:
            there = there[site.part]
        if there.shape != state.shape:
            raise UserError(
                f"the state has shape {tuple(state.shape)}, and at {site.name!r} there is {tuple(there.shape)}; "
                "give places of one width"
            )
        there.copy_(state)
        return out

    return hook_fn


def _checked(position: int, length: int, site: Site) -> int:
    """A position of a step, which may be counted from its end.

    Raises:
        UserError: the step has no such position.
    """
    if not -length <= position < length:
        raise UserError(f"no position {position} in step {site.step!r}, which has {length}")
    return position
