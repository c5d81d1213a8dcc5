"""Activation patching inside the latent-thought loop: rows of interventions, run as one batch.

Rows (`codi_lens.patching.schedule`) run side by side, so an activation can be taken from another row at the moment both are
there: patching from the source run, freezing the thoughts at the base run's, and feeding one run's
thoughts to another are all a copy from row to row in an ordinary TransformerLens hook function. Every
experiment is a plan of rows handed to `run_rows`.

The prompts are read once and their keys and values shared by the rows. A row joins the batch at the
step where it first differs from the unpatched run of its prompt, with a copy of that run's state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import HookFn, HookPlan, Site, Step
from codi_lens.model.loop import LoopState
from codi_lens.model.tokens import right_pad
from codi_lens.patching.schedule import Batch, Displaced, Row, Source, batches

Watched = dict[tuple[int, Site], Float[Tensor, "..."]]


@dataclass
class RowsRun:
    """Rows whose thoughts are done; what follows them is still to be read."""

    state: LoopState
    """Of the distinct runs; `place` says which of them a row is."""
    place: tuple[int, ...]
    plan: HookPlan
    watched: Watched
    """(row, site) -> activation at the last position, for what the rows watch."""


@dataclass
class Ended:
    """The runs behind their thoughts' end."""

    state: LoopState
    """Past the end tokens, and nothing more."""
    final: Float[Tensor, "batch pos d_model"]
    """Final states at the last end token and at each token fed after it."""
    onward: LoopState
    """Past the tokens fed after the end tokens as well."""


def run_rows(
    codi: HookedCodi, questions: Sequence[str], rows: Sequence[Row], num_latents: int
) -> RowsRun:
    """Runs all rows through prompt and thoughts.

    Args:
        questions: the prompts that the rows refer to.
        rows: the plan; `Patch.source` and `Row.thoughts_of` are indices into it.

    Raises:
        UserError: an unknown hook point or step.
    """
    loop = codi.loop
    watched: Watched = {}
    found = batches(rows, num_latents)
    hooks = _row_hooks(codi, rows, found, watched)
    plan = loop.plan(hooks, num_latents)
    at_bot = bool(plan.at("bot"))  # if not, bot needs no pass of its own
    state = codi.read_to_share(questions, through_bot=not at_bot)
    state = state.select(found["bot"].taken_from)
    if at_bot:
        state = loop.begin(state, codi.ids.bot, plan)
    for step in range(num_latents):
        state = loop.latent_step(state.select(found[step].taken_from), step, plan)
    end = found["eot"]
    return RowsRun(state.select(end.taken_from), end.place, plan, watched)


def feed_eot(
    codi: HookedCodi, run: RowsRun, tokens: Sequence[Sequence[int]] | None = None
) -> Ended:
    """Step `eot`, and in the same pass the tokens that each run in the batch goes on with.

    Raises:
        HookNeverFired: a patch that no step reached.
    """
    end, runs = codi.tokens.end(), len(run.state.mask)
    padded, mask = right_pad([[*end, *more] for more in tokens or [[]] * runs], codi.ids.pad)
    before = run.state.mask.shape[1]
    codi.tokens.check_length(before + padded.shape[1])
    final = codi.loop.advance(
        run.state, codi.loop.embed(padded), run.plan.at("eot"), mask.to(codi.loop.device)
    )
    run.plan.check_fired()
    return Ended(run.state.crop(before + len(end)), final[:, len(end) - 1 :], run.state)


class _Writes:
    """What one hook function does at one site, in places of the batch there."""

    def __init__(self, place: Sequence[int], position: int) -> None:
        self.place = place
        self.position = position
        self.watchers: list[int] = []
        self.copies: list[tuple[int, int]] = []
        self.values: list[tuple[int, Tensor]] = []
        self.displaced: list[tuple[int, Displaced]] = []

    def add(self, row: int, source: Source) -> None:
        if isinstance(source, int):
            self.copies.append((self.place[row], self.place[source]))
        elif isinstance(source, Displaced):
            self.displaced.append((self.place[row], source))
        else:
            self.values.append((self.place[row], source))

    def hook(self, site: Site, watched: Watched, device: torch.device) -> HookFn:
        """The hook function; its indices are made once, so that firing copies nothing to the device."""

        def index(places: Sequence[int]) -> Tensor:
            return torch.tensor(places, dtype=torch.long, device=device)

        seen = index([self.place[row] for row in self.watchers])
        to, come_from = index([t for t, _ in self.copies]), index([s for _, s in self.copies])
        set_to = index([t for t, _ in self.values])
        moved = index([t for t, _ in self.displaced])
        base = index([self.place[d.base] for _, d in self.displaced])
        other = index([self.place[d.source] for _, d in self.displaced])

        def hook_fn(activation: Tensor, hook: Any) -> Tensor | None:
            # All that is read was computed by the model; patches at this very place do not show.
            now = activation[:, self.position]
            for row, kept in zip(self.watchers, now[seen], strict=True):
                watched[row, site] = kept
            if not (self.copies or self.values or self.displaced):
                return None
            out = activation.clone()
            if self.copies:
                out[to, self.position] = now[come_from]
            if self.values:
                values = [value.to(out) for _, value in self.values]
                out[set_to, self.position] = torch.stack(values)
            if self.displaced:
                directions = torch.stack([d.direction.to(out) for _, d in self.displaced])
                out[moved, self.position] = displace(now[base], now[other], directions)
            return out

        return hook_fn


def displace(
    base: Float[Tensor, "rows d_model"],
    source: Float[Tensor, "rows d_model"],
    direction: Float[Tensor, "rows d_model"],
) -> Float[Tensor, "rows d_model"]:
    """What `Displaced` stands for."""
    return base + (source - base).norm(dim=-1, keepdim=True) * direction


def _row_hooks(
    codi: HookedCodi, rows: Sequence[Row], found: dict[Step, Batch], watched: Watched
) -> list[tuple[Site, HookFn]]:
    """One hook function per site: what it copies from run to run, sets, and keeps."""
    fed: dict[Site, _Writes] = {}
    sites: dict[Site, _Writes] = {}

    def at(written: dict[Site, _Writes], site: Site) -> _Writes:
        # At eot the pass goes on behind the last end token; everywhere else it is one position long.
        position = len(codi.tokens.end()) - 1 if site.step == "eot" else 0
        return written.setdefault(site, _Writes(found[site.step].place, position))  # type: ignore[index]

    for index, row in enumerate(rows):
        for step, batch in found.items():
            if row.thoughts_of is not None and isinstance(step, int) and batch.joined[index]:
                at(fed, Site("hook_embed", step)).add(index, row.thoughts_of)
        for patch in row.patches:
            at(sites, Site(patch.name, patch.step)).add(index, patch.source)
        for site in row.watch:
            at(sites, site).watchers.append(index)
    # Fed thoughts come first, so that a patch of the thought itself has the last word.
    return [
        (site, writes.hook(site, watched, codi.loop.device))
        for written in (fed, sites)
        for site, writes in written.items()
    ]
