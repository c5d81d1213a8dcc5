"""From a plan to outcomes: batches of pairs through the engine, metrics for every cell."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.answers import AnswerPair, contrast, is_correct, same_answer
from codi_lens.codi import HookedCodi
from codi_lens.errors import UserError
from codi_lens.metrics import Readout, cell_metrics, sides
from codi_lens.outcomes import DONOR_GIVEN, Cell, PairOutcome, RunRecord
from codi_lens.pairs import Pair, Variant
from codi_lens.patching import (
    Row,
    RowsRun,
    Source,
    end_thoughts,
    read_answers,
    read_at_eot,
    run_rows,
    says_tokens,
    shifted,
)
from codi_lens.plans import BASE, PLANS, SOURCE, Plan, Settings
from codi_lens.similarity import similarities

Decode = Literal["none", "last", "all"]
"""Patched answers to decode: of no cell, of the last iteration, of every cell of the main variant."""
Saved = Sequence[Tensor]
"""For each pair, source activations [layer, position, d_model] to patch in instead of the run's own."""


@dataclass(frozen=True)
class _Job:
    """One pair of a batch, ready to run."""

    pair: Pair
    plan: Plan
    answer: AnswerPair
    donor: Pair | None


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
    batch_rows: int = 256,
    decode: Decode = "none",
    saved: Saved | None = None,
) -> Iterator[PairOutcome]:
    """Runs an experiment over the pairs, several side by side; yields each pair's outcome in order.

    Raises:
        UserError: no pairs, or a plan that the model cannot run.
    """
    if not pairs:
        raise UserError("there are no pairs to run")
    donors = choose_donors(pairs, settings) if settings.controls else [None] * len(pairs)
    jobs = [
        _job(experiment, codi, pair, settings, donor, None if saved is None else saved[i])
        for i, (pair, donor) in enumerate(zip(pairs, donors, strict=True))
    ]
    start = 0
    while start < len(jobs):
        stop = start + max(1, batch_rows // len(jobs[start].plan.rows))
        yield from _run_batch(codi, jobs[start:stop], settings, decode)
        start = stop


def choose_donors(pairs: Sequence[Pair], settings: Settings) -> list[Pair | None]:
    """For each pair another one, drawn with the seed, whose source answer is unlike both of its own."""
    source = sides(settings.direction)[1]
    draw = random.Random(settings.seed)
    donors: list[Pair | None] = []
    for pair in pairs:
        own = (pair.clean.answer, pair.corrupted.answer)
        others = [
            other
            for other in pairs
            if not any(same_answer(_variant(other, source).answer, answer) for answer in own)
        ]
        donors.append(draw.choice(others) if others else None)
    return donors


def _variant(pair: Pair, name: Literal["clean", "corrupted"]) -> Variant:
    return pair.clean if name == "clean" else pair.corrupted


def _job(
    experiment: str,
    codi: HookedCodi,
    pair: Pair,
    settings: Settings,
    donor: Pair | None,
    saved: Tensor | None,
) -> _Job:
    options: dict[str, Any] = {
        "pair_id": pair.pair_id,
        "d_model": codi.model.cfg.d_model,
        "with_donor": donor is not None,
    }
    plan = PLANS[experiment](settings, **options)
    if saved is not None:
        values = dict(zip(plan.grid, saved.flatten(0, 1), strict=True))

        def kept(site: object) -> Source:
            return values[site]  # type: ignore[index]

        plan = PLANS[experiment](settings, **options, source=kept)
    tokenizer, stem = codi.tokens.tokenizer, codi.config.answer_stem
    clean, corrupted = pair.clean.answer, pair.corrupted.answer
    return _Job(pair, plan, contrast(tokenizer, stem, clean, corrupted, codi.ids.eos), donor)


@torch.no_grad()
def _run_batch(
    codi: HookedCodi, jobs: Sequence[_Job], settings: Settings, decode: Decode
) -> Iterator[PairOutcome]:
    names = sides(settings.direction)
    questions: list[str] = []
    rows: list[Row] = []
    starts, pair_of_row = [], []
    for index, job in enumerate(jobs):
        starts.append(len(rows))
        rows += shifted(job.plan.rows, len(rows), len(questions))
        pair_of_row += [index] * len(job.plan.rows)
        questions += [_variant(job.pair, name).question for name in names]
        questions += [_variant(job.donor, names[1]).question] if job.donor else []
    run = run_rows(codi, questions, rows, settings.num_latents)
    final = end_thoughts(codi, run)

    wanted = [_to_decode(job.plan, decode) for job in jobs]
    decoded = _decode(codi, run, final, jobs, starts, wanted)
    donated = _donor_given(codi, run, final, jobs, starts, settings)
    answers = [job.answer for job in jobs]
    if settings.answer_start == "eot":
        readouts = read_at_eot(codi, final, pair_of_row, answers)
    else:
        readouts = read_answers(codi, run.state, final, pair_of_row, answers)
    for index, (job, readout) in enumerate(zip(jobs, readouts, strict=True)):
        watched = _watched(run, job, starts[index], settings)
        yield _outcome(job, readout, decoded[index], donated[index], watched, settings)


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
    run: RowsRun,
    final: Tensor,
    jobs: Sequence[_Job],
    starts: Sequence[int],
    wanted: Sequence[dict[Cell, int]],
) -> list[tuple[list[str], dict[Cell, str]]]:
    """For each pair the greedy texts of its base and source run, and those of the wanted cells."""
    rows = [
        start + row
        for start, cells in zip(starts, wanted, strict=True)
        for row in (BASE, SOURCE, *cells.values())
    ]
    index = torch.tensor(rows, device=codi.loop.device)
    ids = codi.decode_from(run.state.select(index), codi.loop.unembed(final[index]))
    texts = iter([codi.tokens.text(row) for row in ids])
    return [([next(texts), next(texts)], {cell: next(texts) for cell in cells}) for cells in wanted]


def _donor_given(
    codi: HookedCodi,
    run: RowsRun,
    final: Tensor,
    jobs: Sequence[_Job],
    starts: Sequence[int],
    settings: Settings,
) -> list[Tensor | None]:
    """For each pair with a donor: whether each donor cell gives the donor's answer, shaped as a map."""
    given: list[Tensor | None] = [None] * len(jobs)
    if not any(job.donor for job in jobs):
        return given
    name = sides(settings.direction)[1]
    cells = [job.plan.cells[settings.variants.index("donor")] for job in jobs]
    rows, tokens = [], []
    for job, start, own in zip(jobs, starts, cells, strict=True):
        if job.donor is not None:
            answer = codi.tokens.answer(_variant(job.donor, name).answer)
            rows += (own.flatten() + start).tolist()
            tokens += [answer] * own.numel()
    index = torch.tensor(rows, device=codi.loop.device)
    says = iter(says_tokens(codi, run.state.select(index), final[index], tokens))
    for i, (job, own) in enumerate(zip(jobs, cells, strict=True)):
        if job.donor is not None:
            flat = torch.tensor([float(next(says)) for _ in range(own.numel())])
            given[i] = flat.reshape(own.shape)
    return given


def _watched(run: RowsRun, job: _Job, start: int, settings: Settings) -> _Watched:
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
    job: _Job,
    readout: Readout,
    texts: tuple[list[str], dict[Cell, str]],
    donated: Tensor | None,
    watched: _Watched,
    settings: Settings,
) -> PairOutcome:
    values = cell_metrics(
        readout,
        job.answer,
        base=BASE,
        source=SOURCE,
        direction=settings.direction,
        min_gap=settings.min_gap,
    )
    cells, pair = job.plan.cells, job.pair
    metrics = {}
    for name, value in values.items():
        own = value.cpu()[cells.clamp(min=0)]
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
            is_correct(texts[0][row], _variant(pair, side).answer),
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
