"""From a plan to outcomes: batches of pairs through the engine, metrics for every cell."""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.data.answers import is_correct
from codi_lens.data.pairs import Pair
from codi_lens.errors import whole_number
from codi_lens.memory import fitting_rows, in_batches
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.checks import check_finite, check_pairs
from codi_lens.patching.engine import RowsRun
from codi_lens.patching.jobs import (
    Job,
    Saved,
    choose_donors,
    make_job,
    measure,
    own_runs,
    run_jobs,
    variant,
)
from codi_lens.patching.metrics import sides
from codi_lens.patching.plans import BASE, SOURCE, Plan, Settings
from codi_lens.patching.readout import Answers, says_tokens
from codi_lens.patching.result import DONOR_GIVEN, Cell, PairOutcome, RunRecord
from codi_lens.patching.similarity import similarities

Decode = Literal["none", "last", "all"]
"""Patched answers to decode: of no cell, of the last iteration, of every cell of the main variant."""


@dataclass(frozen=True)
class _Watched:
    """Activations of one pair: of the unpatched runs on the grid, and those that cells generated."""

    base: Float[Tensor, "layer position d_model"]
    source: Float[Tensor, "layer position d_model"]
    generated: Float[Tensor, "strategy layer iteration d_model"] | None


def sweep_pairs(
    experiment: str,
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
        batch_rows: rows side by side, at most (a pair is never split); None: as many as should fit in
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
    if batch_rows is not None:
        batch_rows = whole_number(batch_rows, "batch_rows", at_least=1)
    donors = choose_donors(pairs, settings) if settings.controls else [None] * len(pairs)
    jobs = [
        make_job(experiment, codi, pair, settings, donor, None if saved is None else saved[i])
        for i, (pair, donor) in list(enumerate(zip(pairs, donors, strict=True)))[part]
    ]
    if not jobs:
        return

    def run(batch: Sequence[Job]) -> list[PairOutcome]:
        if all(job.pair.pair_id in done for job in batch):
            return []
        outcomes = _run_batch(codi, batch, settings, decode)
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
    return max(1, batch_rows // max(len(job.plan.rows) for job in jobs))


@torch.no_grad()
def _run_batch(
    codi: HookedCodi, jobs: Sequence[Job], settings: Settings, decode: Decode
) -> list[PairOutcome]:
    run, reading = run_jobs(codi, jobs, settings)
    own = list(own_runs(run, jobs))
    values = measure(reading, own, settings)
    wanted = [_to_decode(job.plan, decode) for job in jobs]
    decoded = _decode(codi, reading, own, wanted)
    donated = _donor_given(codi, reading, jobs, own, settings)
    outcomes, start = [], 0
    for index, job in enumerate(jobs):
        watched = _watched(run, job, start, settings)
        outcomes.append(
            _outcome(job, values[index], decoded[index], donated[index], watched, settings)
        )
        start += len(job.plan.rows)
    return outcomes


def _to_decode(plan: Plan, decode: Decode) -> dict[Cell, int]:
    """Cells to decode, with their rows."""
    cells = plan.cells
    if decode == "none":
        return {}
    last = cells.shape[-1] - 1
    return {
        tuple(cell): int(cells[tuple(cell)])
        for cell in (cells >= 0).nonzero().tolist()
        if (cell[0] == 0 or "variant" not in plan.axes) and (decode == "all" or cell[-1] == last)
    }


def _decode(
    codi: HookedCodi,
    reading: Answers,
    own: Sequence[Sequence[int]],
    wanted: Sequence[dict[Cell, int]],
) -> list[tuple[list[str], dict[Cell, str]]]:
    """For each pair the greedy texts of its base and source run, and those of the wanted cells."""
    runs = [
        of_row[row]
        for of_row, cells in zip(own, wanted, strict=True)
        for row in (BASE, SOURCE, *cells.values())
    ]
    distinct = sorted(set(runs))
    index = torch.tensor(distinct, device=codi.loop.device)
    logits = codi.loop.unembed(reading.ended.final[index, 0])
    ids = codi.decode_from(reading.ended.state.select(distinct), logits)
    text = {run: codi.tokens.text(row) for run, row in zip(distinct, ids, strict=True)}
    texts = iter([text[run] for run in runs])
    return [([next(texts), next(texts)], {cell: next(texts) for cell in cells}) for cells in wanted]


def _donor_given(
    codi: HookedCodi,
    reading: Answers,
    jobs: Sequence[Job],
    own: Sequence[Sequence[int]],
    settings: Settings,
) -> list[Tensor | None]:
    """For each pair with a donor: whether each donor cell gives the donor's answer, shaped as a map."""
    given: list[Tensor | None] = [None] * len(jobs)
    if not any(job.donor for job in jobs):
        return given
    name = sides(settings.direction)[1]
    cells = [job.plan.cells[settings.variants.index("donor")] for job in jobs]
    runs, tokens = [], []
    for job, of_row, rows in zip(jobs, own, cells, strict=True):
        if job.donor is not None:
            answer = codi.tokens.answer(variant(job.donor, name).answer)
            runs += [of_row[row] for row in rows.flatten().tolist()]
            tokens += [answer] * rows.numel()
    says = iter(says_tokens(codi, reading.ended, runs, tokens))
    for i, (job, rows) in enumerate(zip(jobs, cells, strict=True)):
        if job.donor is not None:
            flat = torch.tensor([float(next(says)) for _ in range(rows.numel())])
            given[i] = flat.reshape(rows.shape)
    return given


def _watched(run: RowsRun, job: Job, start: int, settings: Settings) -> _Watched:
    """Collects what the rows of one pair were told to watch."""
    plan, kept = job.plan, run.watched
    shape = (len(settings.layers), len(settings.positions), -1)
    base, source = (
        torch.stack([kept[start + row, site] for site in plan.grid]).reshape(shape).cpu()
        for row in (BASE, SOURCE)
    )
    generated = None
    if plan.generated is not None:
        generated = torch.full(
            (*plan.generated.shape[:-1], base.shape[-1]), torch.nan, dtype=base.dtype
        )
        for cell in (plan.generated[..., 0] >= 0).nonzero().tolist():
            row, site = plan.generated[tuple(cell)].tolist()
            generated[tuple(cell)] = kept[start + row, plan.grid[site]]
    return _Watched(base, source, generated)


def _outcome(
    job: Job,
    values: dict[str, Float[Tensor, " rows"]],
    texts: tuple[list[str], dict[Cell, str]],
    donated: Tensor | None,
    watched: _Watched,
    settings: Settings,
) -> PairOutcome:
    cells, pair = job.plan.cells, job.pair
    check_finite(values, job.plan, pair)
    metrics = {}
    for name, value in values.items():
        own = value[cells.clamp(min=0)]
        metrics[name] = own.masked_fill(cells < 0, torch.nan)
    if settings.controls:
        metrics[DONOR_GIVEN] = torch.full_like(metrics["flipped"], torch.nan)
        if donated is not None:
            metrics[DONOR_GIVEN][settings.variants.index("donor")] = donated.to(metrics["flipped"])
    if watched.generated is not None:
        generated = (watched.generated, watched.base, watched.source)
        metrics |= similarities(*generated, settings.direction)
    base, source = (
        RunRecord(
            {name: float(value[row]) for name, value in values.items()},
            texts[0][row],
            is_correct(texts[0][row], variant(pair, side).answer),
        )
        for row, side in zip((BASE, SOURCE), sides(settings.direction), strict=True)
    )
    return PairOutcome(
        pair,
        metrics,
        base,
        source,
        activations=watched.source,
        base_activations=watched.base,
        generated=watched.generated,
        texts=texts[1],
        donor=None if job.donor is None else job.donor.pair_id,
    )
