"""Pairs made ready to run, run side by side, and measured: what every experiment does with its plan."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.data.answers import AnswerPair, contrast, same_answer
from codi_lens.data.pairs import Pair, Variant
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.engine import RowsRun, run_rows
from codi_lens.patching.metrics import cell_metrics, sides
from codi_lens.patching.plans import BASE, PLANS, SOURCE, Plan, Settings
from codi_lens.patching.readout import Answers, read_answers, read_at_eot
from codi_lens.patching.schedule import Row, Source, shifted

Saved = Sequence[Tensor]
"""For each pair, source activations [layer, position, d_model] to patch in instead of the run's own."""


@dataclass(frozen=True)
class Job:
    """One pair of a batch, ready to run."""

    pair: Pair
    plan: Plan
    answer: AnswerPair
    donor: Pair | None


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
            if not any(same_answer(variant(other, source).answer, answer) for answer in own)
        ]
        donors.append(draw.choice(others) if others else None)
    return donors


def variant(pair: Pair, name: Literal["clean", "corrupted"]) -> Variant:
    """The clean or the corrupted side of a pair."""
    return pair.clean if name == "clean" else pair.corrupted


def make_job(
    experiment: str,
    codi: HookedCodi,
    pair: Pair,
    settings: Settings,
    donor: Pair | None = None,
    saved: Tensor | None = None,
) -> Job:
    """The plan and the answer tokens of one pair.

    Args:
        donor: the pair whose source run is the donor control's, where there is one.
        saved: source activations [layer, position, d_model] to patch in instead of the run's own.
    """
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
    answer = contrast(tokenizer, stem, clean, corrupted, codi.ids.eos)
    if settings.answer_start == "eot":
        answer = replace(answer, stem=())
    return Job(pair, plan, answer, donor)


def run_jobs(codi: HookedCodi, jobs: Sequence[Job], settings: Settings) -> tuple[RowsRun, Answers]:
    """Runs all rows of all jobs, side by side, through prompt, thoughts and answers."""
    source = sides(settings.direction)[1]
    questions: list[str] = []
    rows: list[Row] = []
    pair_of_row: list[int] = []
    for index, job in enumerate(jobs):
        rows += shifted(job.plan.rows, len(rows), len(questions))
        pair_of_row += [index] * len(job.plan.rows)
        questions += [variant(job.pair, name).question for name in sides(settings.direction)]
        questions += [variant(job.donor, source).question] if job.donor else []
    run = run_rows(codi, questions, rows, settings.num_latents)
    answers = [job.answer for job in jobs]
    if settings.answer_start == "eot":
        return run, read_at_eot(codi, run, answers)
    return run, read_answers(codi, run, pair_of_row, answers)


def own_runs(run: RowsRun, jobs: Sequence[Job]) -> Iterator[Sequence[int]]:
    """For each job the runs in the batch that its rows are."""
    start = 0
    for job in jobs:
        yield run.place[start : (start := start + len(job.plan.rows))]


def measure(
    reading: Answers, own: Sequence[Sequence[int]], settings: Settings
) -> list[dict[str, Float[Tensor, " rows"]]]:
    """All metrics of all rows of each pair, on the CPU; the logits come and go a few rows at a time."""
    measured = []
    for pair, runs in enumerate(own):
        unpatched = [runs[BASE], runs[SOURCE]]
        others = sorted(set(runs) - set(unpatched))
        parts: list[Tensor] = []
        for chunk in reading.chunks(pair, others) if others else [[]]:
            values = cell_metrics(
                reading.readout(pair, [*unpatched, *chunk]),
                reading.answers[pair],
                base=0,
                source=1,
                direction=settings.direction,
                min_gap=settings.min_gap,
            )
            stacked = torch.stack(list(values.values()))
            parts.append(stacked[:, 2:] if parts else stacked)
        found = torch.cat(parts, dim=1).cpu()
        column = {run: i for i, run in enumerate([*unpatched, *others])}
        rows = found[:, [column[run] for run in runs]]
        measured.append(dict(zip(values, rows, strict=True)))
    return measured
