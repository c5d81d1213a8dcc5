"""The runs that `experiments.benchmark` compares, and the comparison."""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens import UserError
from codi_lens.memory import in_batches
from codi_lens.patching.experiments import POSITIONS
from codi_lens.patching.metrics import measure
from codi_lens.patching.outcomes import make_jobs, own_rows, run_jobs
from codi_lens.patching.plan import NONE, Job, place_at
from codi_lens.patching.settings import Settings
from codi_lens.patching.sweep import make_settings
from experiments.benchmarks.floor import Passes, counted, floor
from experiments.benchmarks.models import Bench, make_bench
from experiments.benchmarks.plain import Cell, Plain
from experiments.load_benchmark import sampled

TOLERANCE = {"float64": 1e-9, "float32": 1e-3, "bfloat16": 0.2, "float16": 0.05}
"""Largest difference between a, b and c, as a share of the logits' standard deviation."""

Runs = dict[str, tuple[Callable[[], Any], float]]
"""Name -> run, and by how much its time is scaled up to stand for all cells."""


@dataclass
class Work:
    """What is measured: a model, its pairs made ready, and the cells that stand for all."""

    bench: Bench
    jobs: list[Job]
    settings: Settings
    size: int
    """Pairs in a batch of c."""
    cells: list[Cell] = field(default_factory=list)


def make_work(
    bench: Bench, batch_rows: int | None, sample: int, seed: int = 0, site: str = "resid_post"
) -> Work:
    """Plans for all pairs, and a random sample of their cells with the source's activations."""
    codi = bench.codi
    settings = make_settings(codi, site=site)
    jobs, size = make_jobs(POSITIONS, codi, bench.pairs, settings, batch_rows=batch_rows)
    work = Work(bench, jobs, settings, size)
    draw = random.Random(seed)
    grid = [
        (i, *cell)
        for i, job in enumerate(jobs)
        for cell in (job.plan.cells != NONE).nonzero().tolist()
    ]
    for index, *cell in draw.sample(grid, min(sample, len(grid))):
        kept: list[Tensor] = []
        _, row, column = cell
        (place,) = place_at(settings, settings.layers[row], settings.positions[column])
        keep = (place, lambda x, hook, kept=kept: kept.append(x[0, -1].clone()))
        codi.run_with_hooks(jobs[index].pair.clean.question, 1, fwd_hooks=[keep])
        run = int(jobs[index].plan.cells[tuple(cell)])
        value = kept[0] if place.part is None else kept[0][place.part]
        work.cells.append(Cell(index, run, place, value))
    return work


# -- a, b, c ---------------------------------------------------------------------------------------


def with_hooks(work: Work, cell: Cell) -> Float[Tensor, "pos d_vocab"]:
    """b: the same with TransformerLens' hooks."""
    pair = work.jobs[cell.job].pair

    def put_in(activation: Tensor, hook: Any) -> Tensor:
        out = activation.clone()
        out[:, -1][:, ... if cell.site.part is None else cell.site.part] = cell.value
        return out

    hooks = [(cell.site, put_in)]
    run = work.bench.codi.run_with_hooks(
        pair.corrupted.question, pair.clean.answer, fwd_hooks=hooks
    )
    return run.logits[0]


def sweep(work: Work) -> list[dict[str, Tensor]]:
    """c: all metrics of all cells of all pairs."""

    def run(jobs: Sequence[Job]) -> list[dict[str, Tensor]]:
        rows, reading = run_jobs(work.bench.codi, jobs, work.settings)
        return measure(reading, list(own_rows(rows, jobs)), work.settings)

    return list(in_batches(work.jobs, work.size, run))


def disagreement(work: Work) -> float:
    """Largest difference of a, b and c on the sampled cells, as a share of the logits' spread."""
    worst = 0.0
    plain = Plain(work.bench, keep_prompt=False)
    for cell in work.cells:
        job = work.jobs[cell.job]
        done, readout = run_jobs(work.bench.codi, [job], work.settings)
        ours = readout.logits(0, [done.batch_index[cell.run]]).clean[0].float()
        start = len(job.answer.stem)
        for other in (plain.run(job, cell.job, cell), with_hooks(work, cell)):
            read = other[start : start + len(ours)].float()
            worst = max(worst, float((ours - read).abs().max() / read.std()))
    return worst


# -- the comparison ----------------------------------------------------------------------------------


@torch.no_grad()
def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Checks that the runs agree, then times them in turn.

    Raises:
        UserError: they do not agree.
    """
    dtype = getattr(torch, arguments.dtype)
    bench = make_bench(arguments.shape, arguments.limit, arguments.device, dtype)
    work = make_work(bench, arguments.batch_rows, arguments.sample, arguments.seed, arguments.site)
    apart = disagreement(work)
    if apart > TOLERANCE[arguments.dtype]:
        raise UserError(f"a, b and c differ by {apart:.1e} of the logits' spread; nothing is timed")
    with counted(bench.codi.loop) as passes:
        peak = peak_memory(bench, lambda: sweep(work))
    cells = len(work.jobs) * work.jobs[0].plan.cells.numel()
    runs = runs_to_time(work, passes)
    seconds = take_turns(runs, bench, arguments.repeats)
    middle = {name: values["median"] for name, values in seconds.items()}
    return {
        "shape": arguments.shape,
        "device": str(bench.codi.loop.device),
        "dtype": arguments.dtype,
        "threads": torch.get_num_threads(),
        "pairs": len(work.jobs),
        "pairs_in_a_batch": min(work.size, len(work.jobs)),
        "site": work.settings.site,
        "cells_per_pair": work.jobs[0].plan.cells.numel(),
        "sampled_cells": len(work.cells),
        "repeats": arguments.repeats,
        "disagreement": apart,
        "seconds": seconds,
        "ratios": ratios(middle),
        "cells_a_second": cells / middle["c"],
        "tokens": {
            "fed": sum(batch * new for batch, new in passes.fed),
            "passes": len(passes.fed),
            "unembedded": sum(passes.read),
        },
        "peak_bytes": peak,
        "weight_bytes": sum(p.numel() * p.element_size() for p in bench.plain.parameters()),
    }


def runs_to_time(work: Work, passes: Passes) -> Runs:
    """Name -> run, and by how much its time is scaled up to stand for all cells."""
    plain, keeping = Plain(work.bench, False), Plain(work.bench, True)
    cells = sum(int((job.plan.cells != NONE).sum()) for job in work.jobs)
    scale = cells / len(work.cells)

    def each(run: Callable[[Cell], Any]) -> Callable[[], Any]:
        return lambda: [run(cell) for cell in work.cells]

    for cell in work.cells:  # a′ has read every prompt before it is timed
        keeping.run(work.jobs[cell.job], cell.job, cell)
    return {
        "a": (each(lambda cell: plain.run(work.jobs[cell.job], cell.job, cell)), scale),
        "a′": (each(lambda cell: keeping.run(work.jobs[cell.job], cell.job, cell)), scale),
        "b": (each(lambda cell: with_hooks(work, cell)), scale),
        "c": (lambda: sweep(work), 1.0),
        "d": (floor(work.bench, passes, own_shapes=False), 1.0),
        "d′": (floor(work.bench, passes, own_shapes=True), 1.0),
    }


def take_turns(runs: Runs, bench: Bench, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of each run, scaled, over repeats in which all take their turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (run, scale) in runs.items():
            times[name].append(timed(run, bench) * scale)
    return {name: summary(values) for name, values in times.items()}


def timed(run: Callable[[], Any], bench: Bench) -> float:
    """Seconds of one run."""
    if bench.plain.device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if bench.plain.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def ratios(seconds: dict[str, float]) -> dict[str, float]:
    """The ratios by which c is judged."""
    over = [("a", "c"), ("a′", "c"), ("b", "c"), ("c", "d"), ("c", "d′")]
    return {f"{one}/{other}": seconds[one] / seconds[other] for one, other in over}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and spread."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def peak_memory(bench: Bench, run: Callable[[], Any]) -> int:
    """Bytes that a run takes beyond what was there before it."""
    if bench.plain.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with sampled() as samples:
        run()
    return max(sample["RssAnon"] for sample in samples) - samples[0]["RssAnon"]
