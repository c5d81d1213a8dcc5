"""From a plan to outcomes: batches of pairs through the engine, metrics for every cell."""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.data.donors import choose_donors
from codi_lens.data.pairs import Pair, side_of
from codi_lens.errors import whole_number
from codi_lens.memory import fitting_rows, in_batches
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.answer_logits import sides
from codi_lens.patching.checks import check_finite, check_pairs, warn_of_hooks
from codi_lens.patching.effects import RESAMPLE
from codi_lens.patching.engine import ThoughtsDone
from codi_lens.patching.experiments import Experiment, experiment_named
from codi_lens.patching.jobs import Job, make_job, measure, own_rows, run_jobs
from codi_lens.patching.plan import BASE, NONE, SOURCE
from codi_lens.patching.readout import AnswerReadout, says_tokens
from codi_lens.patching.result import DONOR_GIVEN, Cell, PairOutcome, RunRecord
from codi_lens.patching.settings import Settings
from codi_lens.patching.similarity import similarities

Saved = Sequence[Float[Tensor, "layer position d_model"]]
"""For each pair, source activations to patch in instead of the run's own."""
Decode = Literal["none", "last", "all"]
"""Patched answers to decode: of no cell, of the last column, of every cell; of the main effect where there are
controls."""


@dataclass(frozen=True)
class _Captured:
    """Activations of one pair: of the unpatched runs on the grid, and those that cells generated."""

    base: Float[Tensor, "layer position d_model"]
    source: Float[Tensor, "layer position d_model"]
    generated: Float[Tensor, "effect row column d_model"] | None


def sweep_pairs(
    experiment: Experiment | str,
    codi: HookedCodi,
    pairs: Sequence[Pair],
    settings: Settings,
    *,
    batch_rows: int | None = None,
    decode: Decode = "none",
    saved: Saved | None = None,
    part: slice = slice(None),
    done: Container[int] = (),
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[PairOutcome]:
    """Runs an experiment over the pairs, several side by side; yields each pair's outcome in order.

    Args:
        batch_rows: runs side by side, at most (a pair is never split); None: as many as should fit in
            memory, and half as many whenever they do not.
        part: which of the pairs to run here; donors are drawn from all of them.
        done: ids of pairs that are not needed again. Batches and donors are as if they were,
            so that the others come out as they would beside them.
        stopped: asked before each batch; if true, no more are run.

    Raises:
        UserError: no pairs, a question that does not fit, a plan that the model cannot run, or out of memory with no way to halve.
        NotFinite: a metric that is no number where it is defined.
    """
    check_pairs(codi, pairs, settings.num_latents)
    warn_of_hooks(codi)
    if batch_rows is not None:
        batch_rows = whole_number(batch_rows, "batch_rows", at_least=1)
    experiment = experiment_named(experiment)
    experiment.check(settings)
    donors: Sequence[Pair | None] = [None] * len(pairs)
    if settings.controls:
        donors = choose_donors(pairs, sides(settings.direction)[1], settings.seed)
    jobs = [
        make_job(experiment, codi, pair, settings, donor, None if saved is None else saved[i])
        for i, (pair, donor) in list(enumerate(zip(pairs, donors, strict=True)))[part]
    ]
    if not jobs:
        return

    def run(batch: Sequence[Job]) -> list[PairOutcome]:
        if all(job.pair.pair_id in done for job in batch):
            return []
        outcomes = _run_batch(experiment, codi, batch, settings, decode)
        return [outcome for outcome in outcomes if outcome.pair.pair_id not in done]

    size = fitting_pairs(codi, jobs, settings, batch_rows)
    yield from in_batches(jobs, size, run, halve=batch_rows is None, stopped=stopped)


def fitting_pairs(
    codi: HookedCodi, jobs: Sequence[Job], settings: Settings, batch_rows: int | None = None
) -> int:
    """Pairs side by side that keep to `batch_rows`; None: that memory should allow."""
    if batch_rows is None:
        answers = [job.answer for job in jobs]
        prompts = [codi.tokens.prompt(job.pair.clean.question) for job in jobs]
        batch_rows = fitting_rows(
            codi.model.cfg,
            codi.loop.device,
            prompt=max(map(len, prompts)),
            latents=settings.num_latents,
            answer=len(codi.tokens.end()) + max(len(a.stem) + len(a.clean) for a in answers),
        )
    return max(1, batch_rows // max(len(job.plan.runs) for job in jobs))


@torch.no_grad()
def _run_batch(
    experiment: Experiment,
    codi: HookedCodi,
    jobs: Sequence[Job],
    settings: Settings,
    decode: Decode,
) -> list[PairOutcome]:
    done, readout = run_jobs(codi, jobs, settings)
    own = list(own_rows(done, jobs))
    values = measure(readout, own, settings)
    wanted = [_to_decode(experiment, job, decode) for job in jobs]
    decoded = _decode(codi, readout, own, wanted)
    donated = _donor_given(codi, readout, jobs, own, settings)
    outcomes, start = [], 0
    for index, job in enumerate(jobs):
        captured = _captured(done, job, start, settings)
        check_finite(values[index], job.plan, experiment.axes(settings), job.pair)
        outcomes.append(
            _outcome(codi, job, values[index], decoded[index], donated[index], captured, settings)
        )
        start += len(job.plan.runs)
    return outcomes


def _to_decode(experiment: Experiment, job: Job, decode: Decode) -> dict[Cell, int]:
    """Cells to decode, with their runs."""
    if decode == "none":
        return {}
    cells = job.plan.cells
    last = cells.shape[-1] - 1
    return {
        tuple(cell): int(cells[tuple(cell)])
        for cell in (cells != NONE).nonzero().tolist()
        if (cell[0] == 0 or not experiment.has_controls) and (decode == "all" or cell[-1] == last)
    }


def _decode(
    codi: HookedCodi,
    readout: AnswerReadout,
    own: Sequence[Sequence[int]],
    wanted: Sequence[dict[Cell, int]],
) -> list[tuple[list[str], dict[Cell, str]]]:
    """For each pair the greedy texts of its base and source run, and those of the wanted cells."""
    rows = [
        of_run[run]
        for of_run, cells in zip(own, wanted, strict=True)
        for run in (BASE, SOURCE, *cells.values())
    ]
    distinct = sorted(set(rows))
    index = torch.tensor(distinct, device=codi.loop.device)
    logits = codi.loop.unembed(readout.ended.final[index, 0])
    ids = codi.decode_from(readout.ended.state.select(distinct), logits)
    text = {row: codi.tokens.text(tokens) for row, tokens in zip(distinct, ids, strict=True)}
    texts = iter([text[row] for row in rows])
    return [([next(texts), next(texts)], {cell: next(texts) for cell in cells}) for cells in wanted]


def _donor_given(
    codi: HookedCodi,
    readout: AnswerReadout,
    jobs: Sequence[Job],
    own: Sequence[Sequence[int]],
    settings: Settings,
) -> list[Float[Tensor, "row column"] | None]:
    """For each pair with a donor: whether each resample cell gives the donor's answer."""
    given: list[Float[Tensor, "row column"] | None] = [None] * len(jobs)
    if not any(job.donor for job in jobs):
        return given
    side = sides(settings.direction)[1]
    cells = [job.plan.cells[settings.effects.index(RESAMPLE)] for job in jobs]
    rows, tokens = [], []
    for job, of_run, runs in zip(jobs, own, cells, strict=True):
        if job.donor is not None:
            answer = codi.tokens.answer(side_of(job.donor, side).answer)
            rows += [of_run[run] for run in runs.flatten().tolist()]
            tokens += [answer] * runs.numel()
    says = iter(says_tokens(codi, readout.ended, rows, tokens))
    for i, (job, runs) in enumerate(zip(jobs, cells, strict=True)):
        if job.donor is not None:
            flat = torch.tensor([float(next(says)) for _ in range(runs.numel())])
            given[i] = flat.reshape(runs.shape)
    return given


def _captured(done: ThoughtsDone, job: Job, start: int, settings: Settings) -> _Captured:
    """Collects what the runs of one pair were told to capture; `start` is the first of them."""
    plan, kept = job.plan, done.captured
    shape = (len(settings.layers), len(settings.positions), -1)
    base, source = (
        torch.stack([kept[start + run, site] for site in plan.grid]).reshape(shape).cpu()
        for run in (BASE, SOURCE)
    )
    generated = None
    if plan.generated is not None:
        generated = torch.full(
            (*plan.generated.shape[:-1], base.shape[-1]), torch.nan, dtype=base.dtype
        )
        for cell in (plan.generated[..., 0] != NONE).nonzero().tolist():
            run, site = plan.generated[tuple(cell)].tolist()
            generated[tuple(cell)] = kept[start + run, plan.grid[site]]
    return _Captured(base, source, generated)


def _outcome(
    codi: HookedCodi,
    job: Job,
    values: dict[str, Float[Tensor, " runs"]],
    texts: tuple[list[str], dict[Cell, str]],
    donated: Float[Tensor, "row column"] | None,
    captured: _Captured,
    settings: Settings,
) -> PairOutcome:
    cells, pair = job.plan.cells, job.pair
    metrics = {}
    for name, value in values.items():
        own = value[cells.clamp(min=0)]
        metrics[name] = own.masked_fill(cells == NONE, torch.nan)
    if settings.controls:
        metrics[DONOR_GIVEN] = torch.full_like(metrics["flipped"], torch.nan)
        if donated is not None:
            metrics[DONOR_GIVEN][settings.effects.index(RESAMPLE)] = donated.to(metrics["flipped"])
    if captured.generated is not None:
        generated = (captured.generated, captured.base, captured.source)
        metrics |= similarities(*generated, settings.direction)
    base, source = (
        RunRecord(
            {name: float(value[run]) for name, value in values.items()},
            texts[0][run],
            codi.tokens.is_right(texts[0][run], side_of(pair, side).answer),
        )
        for run, side in zip((BASE, SOURCE), sides(settings.direction), strict=True)
    )
    return PairOutcome(
        pair,
        metrics,
        base,
        source,
        activations=captured.source,
        base_activations=captured.base,
        generated=captured.generated,
        texts=texts[1],
        donor=None if job.donor is None else job.donor.pair_id,
    )
