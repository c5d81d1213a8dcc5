"""Activation patching inside the latent-thought loop: rows of interventions, run as one batch.

A *row* is one run of the model: a prompt, and what is done to it. Rows run side by side, so an activation
can be taken from another row at the moment both are there: patching from the source run, freezing the
thoughts at the base run's, and feeding one run's thoughts to another are all a copy from row to row in
an ordinary TransformerLens hook function. Every experiment is a plan of rows handed to `run_rows`.

The prompts are read once and their keys and values shared by the rows; the answer is read with the
clean and with the corrupted answer forced, which share all work up to their first difference.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.answers import AnswerPair
from codi_lens.codi import HookedCodi
from codi_lens.hooks import HookFn, HookPlan, Site, Step
from codi_lens.loop import LoopState
from codi_lens.metrics import Readout
from codi_lens.tokens import right_pad


@dataclass(frozen=True)
class Displaced:
    """base + ‖source − base‖ · direction, with two rows' activations at the place of the patch."""

    base: int
    source: int
    direction: Float[Tensor, " d_model"]
    """Of length 1."""


Source = int | Tensor | Displaced
"""What a patch puts in: a row's activation at the same place, a value, or a displacement."""


@dataclass(frozen=True)
class Patch:
    """One activation, at the last position of a step, set to something else."""

    name: str
    """Hook point, e.g. "blocks.3.hook_resid_post"; "hook_embed" at a latent step is the thought."""
    step: Step
    source: Source
    """A row stands for its activation at the same place, as the model computed it."""


@dataclass(frozen=True)
class Row:
    """One run: a prompt and the interventions on it. Rows are referred to by their index."""

    prompt: int
    patches: tuple[Patch, ...] = ()
    thoughts_of: int | None = None
    """Row whose thoughts are fed at every latent step, instead of this row's own."""
    watch: tuple[Site, ...] = ()
    """Places whose activation (before any patch there) is to be kept."""


@dataclass
class RowsRun:
    """Rows whose thoughts are done; the answer is still to be read."""

    state: LoopState
    plan: HookPlan
    watched: dict[tuple[int, Site], Float[Tensor, "..."]]
    """(row, site) -> activation at the last position, for what the rows watch."""


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
    watched: dict[tuple[int, Site], Tensor] = {}
    hooks = _row_hooks(rows, num_latents, watched)
    plan = HookPlan(codi.model, hooks, num_latents)
    prompts = torch.tensor([row.prompt for row in rows], device=codi.loop.device)
    state = codi.read(questions)
    if plan.at("bot"):
        state = codi.loop.begin(state.select(prompts), codi.ids.bot, plan)
    else:
        state = codi.loop.begin(state, codi.ids.bot).select(prompts)
    return RowsRun(codi.loop.think(state, num_latents, plan), plan, watched)


def _row_hooks(
    rows: Sequence[Row], num_latents: int, watched: dict[tuple[int, Site], Tensor]
) -> list[tuple[Site, HookFn]]:
    """One hook function per site: what it copies from row to row, sets, and keeps."""
    sites: dict[Site, list[tuple[int, Source]]] = defaultdict(list)
    watchers: dict[Site, list[int]] = defaultdict(list)
    fed = [
        (index, row.thoughts_of) for index, row in enumerate(rows) if row.thoughts_of is not None
    ]
    # Fed thoughts come first, so that a patch of the thought itself has the last word.
    hooks = [
        (Site("hook_embed", step), _write_rows(fed, [], Site("hook_embed", step), watched))
        for step in range(num_latents)
        if fed
    ]
    for index, row in enumerate(rows):
        for patch in row.patches:
            sites[Site(patch.name, patch.step)].append((index, patch.source))
        for site in row.watch:
            watchers[site].append(index)
    for site in {**sites, **watchers}:
        hooks.append((site, _write_rows(sites[site], watchers[site], site, watched)))
    return hooks


def _write_rows(
    writes: Sequence[tuple[int, Source]],
    watchers: Sequence[int],
    site: Site,
    watched: dict[tuple[int, Site], Tensor],
) -> HookFn:
    """A hook function that keeps, then copies or sets, the last position of single rows."""
    copies = [(row, source) for row, source in writes if isinstance(source, int)]
    values = [(row, source) for row, source in writes if not isinstance(source, int)]

    def hook_fn(activation: Tensor, hook: Any) -> Tensor:
        now = activation[:, -1]
        for row in watchers:
            watched[row, site] = now[row].clone()
        out = activation.clone()
        if copies:
            targets, sources = zip(*copies, strict=True)
            out[list(targets), -1] = now[list(sources)]
        for row, source in values:
            out[row, -1] = _value(source, now).to(out)
        return out

    return hook_fn


def _value(source: Tensor | Displaced, now: Float[Tensor, "rows d_model"]) -> Tensor:
    if isinstance(source, Tensor):
        return source
    base, other = now[source.base], now[source.source]
    return base + (other - base).norm() * source.direction.to(now)


def shifted(rows: Sequence[Row], by_rows: int, by_prompts: int) -> list[Row]:
    """The same rows further down a batch: every reference to a row or a prompt moved along."""

    def moved(source: Source) -> Source:
        if isinstance(source, Displaced):
            return Displaced(source.base + by_rows, source.source + by_rows, source.direction)
        return source + by_rows if isinstance(source, int) else source

    return [
        Row(
            row.prompt + by_prompts,
            tuple(Patch(p.name, p.step, moved(p.source)) for p in row.patches),
            None if row.thoughts_of is None else row.thoughts_of + by_rows,
            row.watch,
        )
        for row in rows
    ]


def end_thoughts(codi: HookedCodi, run: RowsRun) -> Float[Tensor, "rows d_model"]:
    """Step `eot`: moves the run's state past the end tokens; returns the final states there.

    Raises:
        HookNeverFired: a patch that no step reached.
    """
    end = torch.tensor(codi.tokens.end()).expand(len(run.state.mask), -1)
    final = codi.loop.advance(run.state, codi.loop.embed(end), run.plan.at("eot"))
    run.plan.check_fired()
    return final[:, -1]


def read_answers(
    codi: HookedCodi,
    state: LoopState,
    final: Float[Tensor, "rows d_model"],
    pairs: Sequence[int],
    answers: Sequence[AnswerPair],
) -> Iterator[Readout]:
    """Reads the answer of all rows, with the clean and with the corrupted answer forced.

    Args:
        state, final: after the end tokens; `state` goes on past the shared part of the answers.
        pairs: for each row, the index of its pair in `answers`.
        answers: number tokens of each pair. One readout is yielded per pair, in this order.
    """
    loop = codi.loop
    shared = [_before_difference(answer) for answer in answers]
    finals = torch.cat([final[:, None], _feed(codi, state, pairs, shared)], dim=1)
    branches = {}
    for name in ("clean", "corrupted"):
        rest = [_after_difference(answer, name) for answer in answers]
        branches[name] = _feed(codi, state.fork(), pairs, rest)
    pair_of_row = torch.tensor(pairs, device=loop.device)
    for index, answer in enumerate(answers):
        rows = (pair_of_row == index).nonzero()[:, 0]
        stem, common = len(answer.stem), len(shared[index]) + 1
        logits = loop.unembed(finals[rows, :common])
        own = {}
        for name, final_states in branches.items():
            length = len(_after_difference(answer, name))
            rest_logits = loop.unembed(final_states[rows, :length])
            own[name] = torch.cat([logits[:, stem:], rest_logits], dim=1)
        yield Readout(logits[:, :stem].argmax(-1), own["clean"], own["corrupted"])


def read_at_eot(
    codi: HookedCodi,
    final: Float[Tensor, "rows d_model"],
    pairs: Sequence[int],
    answers: Sequence[AnswerPair],
) -> Iterator[Readout]:
    """Reads everything at the last position before the stem, where no stem token is forced."""
    pair_of_row = torch.tensor(pairs, device=codi.loop.device)
    for index, answer in enumerate(answers):
        logits = codi.loop.unembed(final[pair_of_row == index, None])
        none = torch.empty((len(logits), 0), dtype=torch.long, device=logits.device)
        clean, corrupted = len(answer.clean), len(answer.corrupted)
        yield Readout(none, logits.expand(-1, clean, -1), logits.expand(-1, corrupted, -1))


def says_tokens(
    codi: HookedCodi,
    state: LoopState,
    final: Float[Tensor, "rows d_model"],
    tokens: Sequence[Sequence[int]],
) -> list[bool]:
    """Whether each row's top-1 token is the given one at every position, all of them forced.

    `state` and `final` are those of these rows after the end tokens; `state` goes on.
    """
    rest = _feed(codi, state, range(len(tokens)), [ids[:-1] for ids in tokens])
    predicted = codi.loop.unembed(torch.cat([final[:, None], rest], dim=1)).argmax(-1)
    return [predicted[row, : len(ids)].tolist() == list(ids) for row, ids in enumerate(tokens)]


def _before_difference(answer: AnswerPair) -> tuple[int, ...]:
    """The tokens that both answers feed: stem and number up to the token that differs."""
    t = len(answer.clean) - 1 if answer.first_difference is None else answer.first_difference
    return answer.stem + answer.clean[:t]


def _after_difference(answer: AnswerPair, name: str) -> tuple[int, ...]:
    """The tokens that one answer goes on to feed; its last token is predicted, never fed."""
    t = answer.first_difference
    tokens: tuple[int, ...] = getattr(answer, name)
    return () if t is None else tokens[t:-1]


def _feed(
    codi: HookedCodi, state: LoopState, pairs: Sequence[int], tokens: Sequence[Sequence[int]]
) -> Float[Tensor, "rows pos d_model"]:
    """Feeds each row its pair's tokens, right-padded; returns the final states."""
    if not any(tokens):
        return codi.loop.embed(torch.empty((len(pairs), 0), dtype=torch.long))
    padded, mask = right_pad([tokens[pair] for pair in pairs], codi.ids.pad)
    codi.tokens.check_length(state.mask.shape[1] + padded.shape[1])
    return codi.loop.advance(state, codi.loop.embed(padded), (), mask.to(codi.loop.device))
