"""From a plan to outcomes: batches of pairs through the engine, metrics for every cell."""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace

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
from codi_lens.patching.decoding import Decode, decode_cells, donor_given, to_decode
from codi_lens.patching.effects import RESAMPLE
from codi_lens.patching.engine import ThoughtsDone, run_batch
from codi_lens.patching.experiments import Experiment, experiment_named
from codi_lens.patching.interventions import constant
from codi_lens.patching.metrics import measure
from codi_lens.patching.plan import BASE, NONE, SOURCE, Given, Job, grid_of
from codi_lens.patching.readout import READOUTS, AnswerReadout
from codi_lens.patching.result import DONOR_GIVEN, Cell, PairOutcome, RunRecord
from codi_lens.patching.schedule import Run, shifted
from codi_lens.patching.settings import Settings
from codi_lens.patching.similarity import similarities

Saved = Sequence[Float[Tensor, "layer position d_model"]]
"""For each pair, source activations to patch in instead of the run's own."""


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


def make_job(
    experiment: Experiment,
    codi: HookedCodi,
    pair: Pair,
    settings: Settings,
    donor: Pair | None = None,
    saved: Float[Tensor, "layer position d_model"] | None = None,
) -> Job:
    """The plan and the answer tokens of one pair.

    Args:
        donor: the pair whose source run is the resample control's, where there is one.
        saved: source activations to patch in instead of the run's own.
    """
    given = Given(pair.pair_id, codi.model.cfg.d_model, donor is not None)
    if saved is not None:
        values = dict(zip(grid_of(settings), saved.flatten(0, 1), strict=True))
        given = replace(given, source=lambda site: constant(values[site]))
    plan = experiment.plan(settings, given)
    return Job(pair, plan, READOUTS[settings.answer_start].answer(codi, pair), donor)


def run_jobs(
    codi: HookedCodi, jobs: Sequence[Job], settings: Settings
) -> tuple[ThoughtsDone, AnswerReadout]:
    """Takes all runs of all jobs, side by side, through prompt, thoughts and answers."""
    source = sides(settings.direction)[1]
    questions: list[str] = []
    runs: list[Run] = []
    pair_of_run: list[int] = []
    for index, job in enumerate(jobs):
        runs += shifted(job.plan.runs, len(runs), len(questions))
        pair_of_run += [index] * len(job.plan.runs)
        questions += [side_of(job.pair, side).question for side in sides(settings.direction)]
        questions += [side_of(job.donor, source).question] if job.donor else []
    done = run_batch(codi, questions, runs, settings.num_latents)
    answers = [job.answer for job in jobs]
    return done, READOUTS[settings.answer_start].read(codi, done, pair_of_run, answers)


def own_rows(done: ThoughtsDone, jobs: Sequence[Job]) -> Iterator[Sequence[int]]:
    """For each job the rows of the batch that its runs are."""
    start = 0
    for job in jobs:
        yield done.batch_index[start : (start := start + len(job.plan.runs))]


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
    wanted = [to_decode(experiment, job, decode) for job in jobs]
    decoded = decode_cells(codi, readout, own, wanted)
    donated = donor_given(codi, readout, jobs, own, settings)
    outcomes, start = [], 0
    for index, job in enumerate(jobs):
        captured = _captured(done, job, start, settings)
        check_finite(values[index], job.plan, experiment.axes(settings), job.pair)
        outcomes.append(
            _outcome(codi, job, values[index], decoded[index], donated[index], captured, settings)
        )
        start += len(job.plan.runs)
    return outcomes


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
