"""Activation patching inside the latent-thought loop: many runs with interventions as one batch.

Runs go side by side, so an intervention can look at another run's activation at the moment both are there:
patching from the source run, holding the thoughts at the base run's, and feeding one run's thoughts to another
are all a copy from row to row in an ordinary TransformerLens hook function. Every experiment is a plan of runs
(`codi_lens.patching.plan`) handed to `run_batch`.

The prompts are read once and their keys and values shared. A run joins the batch at the step where it
first differs from the unpatched run of its prompt, with a copy of that run's state.
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
from codi_lens.patching.interventions import Intervention, from_run
from codi_lens.patching.schedule import Batch, Run, batches

Captured = dict[tuple[int, Site], Float[Tensor, "..."]]


@dataclass
class ThoughtsDone:
    """Runs whose thoughts are done; what follows them is still to be read."""

    state: LoopState
    """Of the rows in the batch; `batch_index` says which of them a run is."""
    batch_index: tuple[int, ...]
    plan: HookPlan
    captured: Captured
    """(run, site) -> activation at the last position, for what the runs capture."""


@dataclass
class Ended:
    """The runs behind their thoughts' end."""

    state: LoopState
    """Past the end tokens, and nothing more."""
    final: Float[Tensor, "batch pos d_model"]
    """Final states at the last end token and at each token fed after it."""
    onward: LoopState
    """Past the tokens fed after the end tokens as well."""


def run_batch(
    codi: HookedCodi, questions: Sequence[str], runs: Sequence[Run], num_latents: int
) -> ThoughtsDone:
    """Takes all runs through prompt and thoughts.

    Args:
        questions: the prompts that the runs refer to.
        runs: the plan; interventions and `Run.thoughts_from` refer to its indices.

    Raises:
        UserError: an unknown hook point or step.
    """
    loop = codi.loop
    captured: Captured = {}
    found = batches(runs, num_latents)
    hooks = _hooks(codi, runs, found, captured)
    plan = loop.plan(hooks, num_latents)
    at_bot = bool(plan.at("bot"))  # if not, bot needs no pass of its own
    state = codi.read_to_share(questions, through_bot=not at_bot)
    state = state.select(found["bot"].taken_from)
    if at_bot:
        state = loop.begin(state, plan)
    for step in range(num_latents):
        state = loop.latent_step(state.select(found[step].taken_from), step, plan)
    end = found["eot"]
    return ThoughtsDone(state.select(end.taken_from), end.batch_index, plan, captured)


def feed_eot(
    codi: HookedCodi, done: ThoughtsDone, tokens: Sequence[Sequence[int]] | None = None
) -> Ended:
    """Step `eot`, and in the same pass the tokens that each row of the batch goes on with.

    Raises:
        HookNeverFired: a patch that no step reached.
    """
    end, rows = codi.tokens.end(), len(done.state.mask)
    padded, mask = right_pad(tokens or [[]] * rows, codi.ids.pad)
    before = done.state.mask.shape[1] + len(end)
    codi.tokens.check_length(before + padded.shape[1])
    final = codi.loop.end(done.state, end, padded, mask, done.plan.at("eot"))
    done.plan.check_fired()
    return Ended(done.state.crop(before), final, done.state)


class _Writes:
    """What one hook function does at one site, in rows of the batch there."""

    def __init__(
        self, batch_index: Sequence[int], position: int, part: int | tuple[int, ...] | None
    ) -> None:
        self.batch_index = batch_index
        self.position = position
        self.part = part
        self.captures: list[int] = []
        self.patches: dict[tuple[type[Intervention], int], list[tuple[int, Intervention]]] = {}

    def add(self, run: int, intervention: Intervention) -> None:
        kind = (type(intervention), len(intervention.reads))
        self.patches.setdefault(kind, []).append((self.batch_index[run], intervention))

    def hook(self, site: Site, captured: Captured, device: torch.device) -> HookFn:
        """The hook function; its indices are made once, so that firing copies nothing to the device."""

        def index(rows: Sequence[int]) -> tuple[Any, ...]:
            where = torch.tensor(rows, dtype=torch.long, device=device)
            if isinstance(self.part, tuple):
                return where[:, None], torch.tensor(self.part, device=device)
            return (where,) if self.part is None else (where, self.part)

        seen = index([self.batch_index[run] for run in self.captures])
        kinds = []
        for (kind, reads), patches in self.patches.items():
            many = [intervention for _, intervention in patches]
            to = index([row for row, _ in patches])
            read = [index([self.batch_index[m.reads[i]] for m in many]) for i in range(reads)]
            kinds.append((kind, many, to, read))

        def hook_fn(activation: Tensor, hook: Any) -> Tensor | None:
            # All that is read was computed by the model; patches at this very place do not show.
            now = activation[:, self.position]
            for run, kept in zip(self.captures, now[seen], strict=True):
                captured[run, site] = kept
            if not kinds:
                return None
            out = activation.clone()
            for kind, many, to, read in kinds:
                values = kind.values(many, now[to], *(now[rows] for rows in read))
                out[:, self.position][to] = values
            return out

        return hook_fn


def _hooks(
    codi: HookedCodi, runs: Sequence[Run], found: dict[Step, Batch], captured: Captured
) -> list[tuple[Site, HookFn]]:
    """One hook function per site: what it puts in, and what it keeps."""
    fed: dict[Site, _Writes] = {}
    sites: dict[Site, _Writes] = {}

    def at(written: dict[Site, _Writes], site: Site) -> _Writes:
        # At eot the pass goes on behind the last end token; everywhere else it is one position long.
        position = len(codi.tokens.end()) - 1 if site.step == "eot" else 0
        rows = found[site.step].batch_index  # type: ignore[index]
        return written.setdefault(site, _Writes(rows, position, site.part))

    for index, run in enumerate(runs):
        for step, batch in found.items():
            if run.thoughts_from is not None and isinstance(step, int) and batch.joined[index]:
                at(fed, Site("hook_embed", step)).add(index, from_run(run.thoughts_from))
        for patch in run.patches:
            at(sites, patch.site).add(index, patch.intervention)
        for site in run.capture:
            at(sites, site).captures.append(index)
    # Fed thoughts come first, so that a patch of the thought itself has the last word.
    return [
        (site, writes.hook(site, captured, codi.loop.device))
        for written in (fed, sites)
        for site, writes in written.items()
    ]
