"""How the cost of a sweep grows with layers, latents, prompt length and pairs, on small random models."""

from dataclasses import asdict, replace
from typing import Any

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from codi_lens import plots
from experiments.benchmark_models import Shape, make_bench
from experiments.benchmark_runs import counted, make_work, summary, sweep, timed

BASE = Shape(layers=6, d_model=256, heads=4, kv_heads=2, d_mlp=1024, d_vocab=8000, prompt=60)
AXES = {
    "layers": (2, 4, 6, 8, 12),
    "latents": (1, 2, 4, 6, 8, 12),
    "prompt": (25, 50, 100, 200, 400),
    "pairs": (1, 2, 4, 8),
}
"""Each is varied alone, the others as in `BASE` with one pair."""


@torch.no_grad()
def grow(repeats: int) -> dict[str, Any]:
    """Seconds of c along every axis, and per new token fed."""
    axes: dict[str, dict[str, list[float]]] = {}
    for axis, values in AXES.items():
        points: dict[str, list[float]] = {
            name: [] for name in ("values", "cells", "tokens", "seconds", "least", "most")
        }
        for value in values:
            for name, found in measure(axis, value, repeats).items():
                points[name].append(found)
        points["microseconds_per_token"] = [
            1e6 * s / n for s, n in zip(points["seconds"], points["tokens"], strict=True)
        ]
        axes[axis] = points
    threads = torch.get_num_threads()
    return {"base": asdict(BASE), "repeats": repeats, "threads": threads, "axes": axes}


def measure(axis: str, value: int, repeats: int) -> dict[str, float]:
    """One point of a curve."""
    shape = BASE if axis == "pairs" else replace(BASE, **{axis: value})
    work = make_work(make_bench(shape, value if axis == "pairs" else 1), None, sample=1)
    with counted(work.bench.codi.loop) as passes:
        sweep(work)
    seconds = summary([timed(lambda: sweep(work), work.bench) for _ in range(repeats)])
    return {
        "values": value,
        "cells": sum(job.plan.cells.numel() for job in work.jobs),
        "tokens": sum(batch * new for batch, new in passes.fed),
        "seconds": seconds["median"],
        "least": seconds["least"],
        "most": seconds["most"],
    }


def figure(found: dict[str, Any]) -> str:
    """A page with one panel per axis: seconds of a whole sweep, with the spread of the repeats."""
    panels = make_subplots(rows=2, cols=2, subplot_titles=list(found["axes"]))
    for i, points in enumerate(found["axes"].values()):
        spread = {
            "array": [m - s for m, s in zip(points["most"], points["seconds"], strict=True)],
            "arrayminus": [s - m for s, m in zip(points["seconds"], points["least"], strict=True)],
        }
        line = go.Scatter(
            x=points["values"],
            y=points["seconds"],
            error_y=spread,
            mode="lines+markers",
            customdata=list(zip(points["cells"], points["tokens"], strict=True)),
            hovertemplate="%{x}: %{y:.3f} s<br>%{customdata[0]} cells, %{customdata[1]} tokens",
            showlegend=False,
        )
        panels.add_trace(line, row=i // 2 + 1, col=i % 2 + 1)
    panels.update_yaxes(title_text="seconds", rangemode="tozero")
    panels.update_xaxes(rangemode="tozero")
    panels.update_layout(title="Seconds of a sweep over all layers and latents", height=700)
    return plots.page({"growth": panels})
