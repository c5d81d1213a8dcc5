"""Pairs made ready to run, run side by side, and measured: what every experiment does with its plan."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.data.answers import AnswerPair
from codi_lens.data.pairs import Pair, side_of
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.answer_logits import sides
from codi_lens.patching.engine import ThoughtsDone, run_batch
from codi_lens.patching.experiments import Experiment
from codi_lens.patching.experiments.base import Given
from codi_lens.patching.interventions import constant
from codi_lens.patching.metrics import Measured, cell_metrics
from codi_lens.patching.plan import BASE, SOURCE, Plan, grid_of
from codi_lens.patching.readout import READOUTS, AnswerReadout
from codi_lens.patching.schedule import Run, shifted
from codi_lens.patching.settings import Settings


@dataclass(frozen=True)
class Job:
    """One pair of a batch, ready to run."""

    pair: Pair
    plan: Plan
    answer: AnswerPair
    donor: Pair | None


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


def measure(
    readout: AnswerReadout, own: Sequence[Sequence[int]], settings: Settings
) -> list[dict[str, Float[Tensor, " runs"]]]:
    """All metrics of all runs of each pair, on the CPU; the logits come and go a few rows at a time."""
    measured = []
    for pair, rows in enumerate(own):
        unpatched = [rows[BASE], rows[SOURCE]]
        others = sorted(set(rows) - set(unpatched))
        parts: list[Tensor] = []
        for chunk in readout.chunks(pair, others) if others else [[]]:
            values = cell_metrics(
                Measured(
                    readout.logits(pair, [*unpatched, *chunk]),
                    readout.answers[pair],
                    base=0,
                    source=1,
                    direction=settings.direction,
                    min_gap=settings.min_gap,
                )
            )
            stacked = torch.stack(list(values.values()))
            parts.append(stacked[:, 2:] if parts else stacked)
        found = torch.cat(parts, dim=1).cpu()
        column = {row: i for i, row in enumerate([*unpatched, *others])}
        of_runs = found[:, [column[row] for row in rows]]
        measured.append(dict(zip(values, of_runs, strict=True)))
    return measured
