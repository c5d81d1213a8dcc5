"""From a plan to outcomes: batches of pairs through the engine, metrics for every cell."""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from codi_lens.data.answers import AnswerPair
from codi_lens.data.donors import choose_donors
from codi_lens.data.pairs import Pair, side_of
from codi_lens.errors import UserError, whole_number
from codi_lens.memory import fitting_rows, in_batches
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.answer_logits import sides
from codi_lens.patching.checks import (
    check_finite,
    check_pairs,
    check_patterns,
    warn_of_hooks,
    without_unequal,
)
from codi_lens.patching.decoding import Decode, decode_cells, donor_given, to_decode
from codi_lens.patching.effects import RESAMPLE
from codi_lens.patching.engine import ThoughtsDone, run_batch
from codi_lens.patching.experiments import Experiment, experiment_named
from codi_lens.patching.metrics import measure
from codi_lens.patching.places import served_heads
from codi_lens.patching.plan import BASE, NONE, SOURCE, Given, Job, Place, Plan
from codi_lens.patching.readout import READOUTS, AnswerReadout
from codi_lens.patching.replacements import Replacement, make_replacement
from codi_lens.patching.result import DONOR_GIVEN, Cell, PairOutcome, RunRecord
from codi_lens.patching.schedule import Run, shifted
from codi_lens.patching.settings import Settings
from codi_lens.patching.splitting import merged, parts_of


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
    replacement: Replacement | None = None,
    part: slice = slice(None),
    done: Container[int] = (),
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[PairOutcome]:
    """Runs an experiment over the pairs, several side by side; yields each pair's outcome in order.

    Args:
        batch_rows: runs side by side, at most: a pair that has more is run in parts. None: as many as should fit
            in memory, and half as many whenever they do not.
        replacement: what is put in; None: what the settings name, means taken over the pairs themselves.
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
    jobs, size = make_jobs(
        experiment, codi, pairs, settings, replacement=replacement, batch_rows=batch_rows, part=part
    )
    if not jobs:
        return

    def run(batch: Sequence[Job]) -> list[PairOutcome]:
        if all(job.pair.pair_id in done for job in batch):
            return []
        outcomes = _run_batch(experiment, codi, batch, settings, decode)
        return [outcome for outcome in outcomes if outcome.pair.pair_id not in done]

    batches = in_batches(jobs, size, run, halve=batch_rows is None, stopped=stopped)
    yield from merged(batches, [job.pair.pair_id for job in jobs])


def make_jobs(
    experiment: Experiment,
    codi: HookedCodi,
    pairs: Sequence[Pair],
    settings: Settings,
    *,
    replacement: Replacement | None = None,
    batch_rows: int | None = None,
    part: slice = slice(None),
) -> tuple[list[Job], int]:
    """The pairs of a part, or parts of them, ready to run; and how many go side by side.

    Arguments and errors as in `sweep_pairs`.
    """
    check_patterns(codi, pairs, settings)
    if replacement is None:
        places = experiment.places(settings)
        replacement = make_replacement(codi, settings, pairs, places=places)
    readout = READOUTS[settings.answer_start]
    answers = [readout.answer(codi, pair) for pair in pairs]
    rows = batch_rows or rows_that_fit(codi, pairs, answers, settings.num_latents)
    plans = planned(experiment, codi, pairs, settings, replacement, part)
    jobs = [
        Job(pair, plan, answer, donor, goes_on=number > 0)
        for answer, (pair, donor, whole) in zip(answers[part], plans, strict=True)
        for number, plan in enumerate(parts_of(whole, rows))
    ]
    return jobs, max(1, rows // max((len(job.plan.runs) for job in jobs), default=1))


def planned(
    experiment: Experiment,
    codi: HookedCodi,
    pairs: Sequence[Pair],
    settings: Settings,
    replacement: Replacement,
    part: slice = slice(None),
) -> Iterator[tuple[Pair, Pair | None, Plan]]:
    """Each pair of the part, the pair whose source run may stand in for its own, and its plan.

    Raises:
        UserError: an intervention that takes from another pair, and a pair that has no other.
    """
    donors: Sequence[Pair | None] = [None] * len(pairs)
    if settings.controls or replacement.needs_donor:
        donors = choose_donors(pairs, sides(settings.direction)[1], settings.seed)
        donors = without_unequal(codi, pairs, donors, settings)
    for i in range(len(pairs))[part]:
        pair, donor = pairs[i], donors[i]
        if replacement.needs_donor and donor is None:
            raise UserError(
                f"pair {pair.pair_id}: no other pair to take activations from; give more pairs"
            )
        cfg, source = codi.model.cfg, replacement.source(i)
        given = Given(pair.pair_id, cfg.n_layers, served_heads(codi), donor is not None, source)
        yield pair, donor, experiment.plan(settings, given)


def rows_that_fit(
    codi: HookedCodi, pairs: Sequence[Pair], answers: Sequence[AnswerPair], num_latents: int
) -> int:
    """Runs side by side that memory should allow."""
    return fitting_rows(
        codi.model.cfg,
        codi.loop.device,
        prompt=max(len(codi.tokens.prompt(pair.clean.question)) for pair in pairs),
        latents=num_latents,
        answer=len(codi.tokens.end()) + max(len(a.stem) + len(a.clean) for a in answers),
    )


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
    decoded = decode_cells(codi, readout, own, jobs, wanted)
    donated = donor_given(experiment, codi, readout, jobs, own, settings)
    outcomes, start = [], 0
    for index, job in enumerate(jobs):
        captured = _captured(done, job, start, settings)
        check_finite(values[index], job.plan, experiment.axes(settings), job.pair)
        outcomes.append(
            _outcome(
                experiment,
                codi,
                job,
                values[index],
                decoded[index],
                donated[index],
                captured,
                settings,
            )
        )
        start += len(job.plan.runs)
    return outcomes


def _captured(done: ThoughtsDone, job: Job, start: int, settings: Settings) -> _Captured:
    """Collects what the runs of one pair were told to capture; `start` is the first of them."""
    plan, kept = job.plan, done.captured

    def at(run: int, place: Place) -> Tensor:
        """All of a place side by side; nothing of a pattern."""
        parts = [kept[start + run, site].flatten() for site in place if (start + run, site) in kept]
        return torch.cat(parts or [done.state.final_states[-1].new_empty(0)]).cpu()

    base, source = (
        pad_sequence([at(run, place) for place in plan.grid], True) for run in (BASE, SOURCE)
    )
    base, source = (
        one.reshape(len(settings.layers), len(settings.positions), -1) for one in (base, source)
    )
    generated = None
    if plan.generated is not None:
        generated = torch.full(
            (*plan.generated.shape[:-1], base.shape[-1]), torch.nan, dtype=base.dtype
        )
        for cell in (plan.generated[..., 0] != NONE).nonzero().tolist():
            run, place = plan.generated[tuple(cell)].tolist()
            own = at(run, plan.grid[place])
            generated[tuple(cell)] = pad(own, (0, base.shape[-1] - len(own)))
    return _Captured(base, source, generated)


def _outcome(
    experiment: Experiment,
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
    if RESAMPLE in experiment.effects(settings):
        metrics[DONOR_GIVEN] = torch.full_like(metrics["flipped"], torch.nan)
        if donated is not None:
            metrics[DONOR_GIVEN][experiment.effects(settings).index(RESAMPLE)] = donated.to(
                metrics["flipped"]
            )
    if captured.generated is not None:
        metrics |= experiment.derived(
            codi, settings, captured.generated, captured.base, captured.source
        )
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
