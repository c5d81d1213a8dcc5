"""What runs say: greedy answers of chosen cells, and whether a resample cell gives its donor's answer."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.data.pairs import side_of
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.answer_logits import sides
from codi_lens.patching.effects import RESAMPLE
from codi_lens.patching.experiments import Experiment
from codi_lens.patching.plan import BASE, NONE, SOURCE, Job
from codi_lens.patching.readout import AnswerReadout, says_tokens
from codi_lens.patching.result import Cell
from codi_lens.patching.settings import Settings

Decode = Literal["none", "last", "all"]
"""Patched answers to decode: of no cell, of the last column, of every cell; of the main effect where there are
controls."""


def to_decode(experiment: Experiment, job: Job, decode: Decode) -> dict[Cell, int]:
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


def decode_cells(
    codi: HookedCodi,
    readout: AnswerReadout,
    own: Sequence[Sequence[int]],
    jobs: Sequence[Job],
    wanted: Sequence[dict[Cell, int]],
) -> list[tuple[list[str], dict[Cell, str]]]:
    """For each job the greedy texts of its base and source run, and those of the wanted cells.

    A later part of a pair has empty texts for the two unpatched runs.
    """
    unpatched = [() if job.goes_on else (BASE, SOURCE) for job in jobs]
    rows = [
        of_run[run]
        for of_run, own_runs, cells in zip(own, unpatched, wanted, strict=True)
        for run in (*own_runs, *cells.values())
    ]
    distinct = sorted(set(rows))
    if not distinct:
        return [(["", ""], {}) for _ in jobs]
    index = torch.tensor(distinct, device=codi.loop.device)
    logits = codi.loop.unembed(readout.ended.final[index, 0])
    ids = codi.decode_from(readout.ended.state.select(distinct), logits)
    text = {row: codi.tokens.text(tokens) for row, tokens in zip(distinct, ids, strict=True)}
    texts = iter([text[row] for row in rows])
    return [
        ([next(texts) for _ in runs] or ["", ""], {cell: next(texts) for cell in cells})
        for runs, cells in zip(unpatched, wanted, strict=True)
    ]


def donor_given(
    experiment: Experiment,
    codi: HookedCodi,
    readout: AnswerReadout,
    jobs: Sequence[Job],
    own: Sequence[Sequence[int]],
    settings: Settings,
) -> list[Float[Tensor, "row column"] | None]:
    """For each pair with a donor: whether each resample cell gives the donor's answer."""
    given: list[Float[Tensor, "row column"] | None] = [None] * len(jobs)
    effects = experiment.effects(settings)
    if RESAMPLE not in effects or not any(job.donor for job in jobs):
        return given
    side = sides(settings.direction)[1]
    cells = [job.plan.cells[effects.index(RESAMPLE)] for job in jobs]
    rows, tokens = [], []
    for job, of_run, runs in zip(jobs, own, cells, strict=True):
        if job.donor is not None:
            answer = codi.tokens.answer(side_of(job.donor, side).answer)
            present = runs[runs != NONE].tolist()
            rows += [of_run[run] for run in present]
            tokens += [answer] * len(present)
    says = iter(says_tokens(codi, readout.ended, rows, tokens) if rows else ())
    for i, (job, runs) in enumerate(zip(jobs, cells, strict=True)):
        if job.donor is not None:
            own_given = torch.full(runs.shape, torch.nan)
            for cell in (runs != NONE).nonzero().tolist():
                own_given[tuple(cell)] = float(next(says))
            given[i] = own_given
    return given
