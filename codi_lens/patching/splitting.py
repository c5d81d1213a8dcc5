"""Plans with more runs than go side by side: parts that run one after the other, and one outcome of all of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from codi_lens.patching.plan import BASE, DONOR, NONE, SOURCE, Plan
from codi_lens.patching.result import PairOutcome
from codi_lens.patching.schedule import Run, renumbered


def parts_of(plan: Plan, rows: int) -> list[Plan]:
    """The plan in parts of at most `rows` runs, where that can be: each with the runs that its cells look at.

    A part has all cells of the whole, those of the other parts being `NONE`.
    """
    if len(plan.runs) <= rows:
        return [plan]
    always = {
        run
        for run in (BASE, SOURCE, DONOR)
        if run < len(plan.runs) and not _touched(plan.runs[run])
    }
    owned = plan.cells.flatten()
    if plan.generated is not None:
        owned = torch.cat([owned, plan.generated[..., 0].flatten()])
    parts: list[tuple[set[int], set[int]]] = []  # the cells' runs, and all that these need
    for run in sorted(set(owned.tolist()) - {NONE}):
        needed = always | _needed(plan.runs, run)
        if not parts or len(parts[-1][1] | needed) > rows:
            parts.append((set(), set()))
        parts[-1][0].add(run)
        parts[-1][1].update(needed)
    return [_part(plan, cells, sorted(needed)) for cells, needed in parts]


def _touched(run: Run) -> bool:
    return bool(run.patches or run.knockouts or run.remembers) or run.thoughts_from is not None


def _needed(runs: Sequence[Run], index: int) -> set[int]:
    """A run, and all runs that it reads, directly or not."""
    found, left = set(), [index]
    while left:
        now = left.pop()
        if now not in found:
            found.add(now)
            run = runs[now]
            left += [read for patch in run.patches for read in patch.intervention.reads]
            left += [other for _, other in run.remembers]
            left += [] if run.thoughts_from is None else [run.thoughts_from]
    return found


def _part(plan: Plan, cells: set[int], kept: list[int]) -> Plan:
    number = {run: i for i, run in enumerate(kept)}
    own = torch.full((len(plan.runs) + 1,), NONE)  # the last stands for NONE
    for run in cells:
        own[run] = number[run]

    def moved(index: Tensor) -> Tensor:
        return own[index]

    generated = None
    if plan.generated is not None:
        generated = torch.stack([moved(plan.generated[..., 0]), plan.generated[..., 1]], -1)
    runs = tuple(renumbered(plan.runs[run], number) for run in kept)
    return replace(plan, runs=runs, cells=moved(plan.cells), generated=generated)


def merged(outcomes: Iterable[PairOutcome], of_jobs: Sequence[int]) -> Iterator[PairOutcome]:
    """One outcome for every pair, of those of its parts.

    Args:
        outcomes: in the order of the jobs; all parts of a pair, or none.
        of_jobs: the pair of every job.
    """
    expected = {pair: len(list(jobs)) for pair, jobs in groupby(of_jobs)}
    parts: list[PairOutcome] = []
    for outcome in outcomes:
        parts.append(outcome)
        if len(parts) == expected[outcome.pair.pair_id]:
            yield parts[0] if len(parts) == 1 else _together(parts)
            parts = []


def _together(parts: Sequence[PairOutcome]) -> PairOutcome:
    first = parts[0]

    def filled(tensors: Sequence[Tensor]) -> Tensor:
        """Each value where there is one."""
        whole = tensors[0].clone()
        for tensor in tensors[1:]:
            whole = torch.where(whole.isnan(), tensor, whole)
        return whole

    metrics = {name: filled([part.metrics[name] for part in parts]) for name in first.metrics}
    generated = [part.generated for part in parts if part.generated is not None]
    texts = {cell: text for part in parts for cell, text in part.texts.items()}
    return replace(
        first, metrics=metrics, texts=texts, generated=filled(generated) if generated else None
    )
