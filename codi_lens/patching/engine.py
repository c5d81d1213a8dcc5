"""Activation patching inside the latent-thought loop: many runs with interventions as one batch.

Runs go side by side, so an intervention can look at another run's activation at the moment both are there:
patching from the source run, holding the thoughts at the base run's, and feeding one run's thoughts to another
are all a copy from row to row in an ordinary TransformerLens hook function. Every experiment is a plan of runs
(`codi_lens.patching.plan`) handed to `run_batch`.

The prompts are read once and their keys and values shared. A run joins the batch at the step where it
first differs from the unpatched run of its prompt, with a copy of that run's state.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import HookFn, HookPlan, Site, Step, by_query
from codi_lens.model.knockouts import Knockout
from codi_lens.model.loop_state import LoopState
from codi_lens.model.tokens import right_pad
from codi_lens.patching.interventions import Intervention, from_run
from codi_lens.patching.schedule import Batch, Run, batches

Captured = dict[tuple[int, Site], Float[Tensor, "..."]]
Part = int | tuple[int, ...] | None
"""As in `Site.part`."""
Alike = bool | tuple[int, ...]
"""What parts have in common that are one indexing: all of the axis (False), one of it each (True), the same ones."""


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
    blind = any("bot" in knockout.queries for run in runs for knockout in run.knockouts)
    at_bot = blind or bool(plan.at("bot"))  # if not, bot needs no pass of its own
    state = codi.read_to_share(questions, through_bot=not at_bot)

    def joined(step: Step) -> LoopState:
        """The rows of the step, taken from those of the one before."""
        batch = found[step]
        rows: list[tuple[Knockout, ...]] = [()] * len(batch.taken_from)
        for run, row, own in zip(runs, batch.batch_index, batch.joined, strict=True):
            rows[row] = run.knockouts if own else ()
        return replace(state.select(batch.taken_from), knockouts=tuple(rows))

    state = joined("bot")
    if at_bot:
        state = loop.begin(state, plan)
    for step in range(num_latents):
        state = loop.latent_step(joined(step), step, plan)
    rows = found["eot"].batch_index
    end = joined("eot")
    for latent in range(num_latents):
        lent = [
            (rows[i], rows[j])
            for i, run in enumerate(runs)
            for k, j in run.remembers
            if k == latent
        ]
        if lent:
            end.lend(latent, *zip(*lent, strict=True))
    return ThoughtsDone(end, rows, plan, captured)


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
    """What one hook function does at one hook point and step, in rows of the batch there."""

    def __init__(self, batch_index: Sequence[int], position: int) -> None:
        self.batch_index = batch_index
        self.position = position
        self.captures: dict[Alike, list[tuple[int, Site]]] = {}
        self.fed: list[tuple[int, Part, Intervention]] = []
        self.patches: dict[
            tuple[type[Intervention], int, Alike], list[tuple[int, Part, Intervention]]
        ] = {}

    def feed(self, run: int, thoughts_from: int) -> None:
        """A run is fed another's thought."""
        self.fed.append((self.batch_index[run], None, from_run(thoughts_from)))

    def add(self, run: int, part: Part, intervention: Intervention) -> None:
        """Something is put in a run's activation's place."""
        kind = (type(intervention), len(intervention.reads), _alike(part))
        self.patches.setdefault(kind, []).append((self.batch_index[run], part, intervention))

    def keep(self, run: int, site: Site) -> None:
        """A run's activation is kept."""
        self.captures.setdefault(_alike(site.part), []).append((run, site))

    def hook(self, captured: Captured, device: torch.device) -> HookFn:
        """The hook function; its indices are made once, so that firing copies nothing to the device."""

        def index(rows: Sequence[int], parts: Sequence[Part]) -> tuple[Any, ...]:
            where = torch.tensor(rows, dtype=torch.long, device=device)
            if isinstance(parts[0], tuple):
                return where[:, None], torch.tensor(parts[0], device=device)
            return (where,) if parts[0] is None else (where, torch.tensor(parts, device=device))

        seen = [
            (
                index([self.batch_index[run] for run, _ in kept], [site.part for _, site in kept]),
                kept,
            )
            for kept in self.captures.values()
        ]
        # Fed thoughts come first, so that a patch of the thought itself has the last word; then what is put in for all
        # heads, so that a patch of one has it.
        whole_first = sorted(self.patches.items(), key=lambda group: bool(group[0][-1]))
        changes = []
        for patches in ([self.fed] if self.fed else []) + [group for _, group in whole_first]:
            rows, parts, many = zip(*patches, strict=True)
            reads = range(len(many[0].reads))
            read = [index([self.batch_index[m.reads[i]] for m in many], parts) for i in reads]
            changes.append((type(many[0]), many, index(rows, parts), read))

        def hook_fn(activation: Tensor, hook: Any) -> Tensor | None:
            # All that is read was computed by the model; what is put in at this very place does not show.
            now = self._here(activation, hook)
            for rows, kept in seen:
                captured.update(zip(kept, now[rows], strict=True))
            if not changes:
                return None
            changed = activation.clone()
            out = self._here(changed, hook)
            for kind, many, to, read in changes:
                out[to] = kind.values(many, out[to], *(now[rows] for rows in read))
            return changed

        return hook_fn

    def _here(self, activation: Tensor, hook: Any) -> Tensor:
        """A view of the step's position: [batch, …]."""
        if by_query(hook.name):
            return activation[:, :, self.position]
        return activation[:, self.position]


def _hooks(
    codi: HookedCodi, runs: Sequence[Run], found: dict[Step, Batch], captured: Captured
) -> list[tuple[Site, HookFn]]:
    """One hook function per hook point and step: what it puts in, and what it keeps."""
    points: dict[Site, _Writes] = {}

    def at(site: Site) -> _Writes:
        whole = site._replace(part=None)
        if whole not in points:
            # At eot the pass goes on behind the last end token; everywhere else it is one position long.
            position = len(codi.tokens.end()) - 1 if site.step == "eot" else 0
            points[whole] = _Writes(found[site.step].batch_index, position)  # type: ignore[index]
        return points[whole]

    for index, run in enumerate(runs):
        for step, batch in found.items():
            if run.thoughts_from is not None and isinstance(step, int) and batch.joined[index]:
                at(Site("hook_embed", step)).feed(index, run.thoughts_from)
        for patch in run.patches:
            at(patch.site).add(index, patch.site.part, patch.intervention)
        for site in run.capture:
            at(site).keep(index, site)
    return [(site, writes.hook(captured, codi.loop.device)) for site, writes in points.items()]


def _alike(part: Part) -> Alike:
    return part if isinstance(part, tuple) else part is not None
