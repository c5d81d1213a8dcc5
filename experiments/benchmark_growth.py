"""How the cost of a sweep grows with layers, latents, prompt length and pairs, on small random models."""

from dataclasses import asdict, replace
from typing import Any

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from experiments.benchmark_floor import counted
from experiments.benchmark_models import Shape, make_bench
from experiments.benchmark_runs import make_work, runs_to_time, sweep, take_turns

BASE = Shape(layers=6, d_model=256, heads=4, kv_heads=2, d_mlp=1024, d_vocab=8000, prompt=60)
AXES = {
    "layers": (2, 4, 6, 8, 12),
    "latents": (1, 2, 4, 6, 8, 12),
    "prompt": (25, 50, 100, 200, 400),
    "pairs": (1, 2, 4, 8),
}
"""Each is varied alone, the others as in `BASE` with one pair."""


COLOURS = {"a": "#b44", "c": "#247", "d": "#888"}
LINES = {
    "a": "one run per cell, transformers",
    "c": "this package",
    "d": "floor: transformers over as many tokens",
}


@torch.no_grad()
def grow(repeats: int) -> dict[str, Any]:
    """Seconds of a, c and d along every axis; cells and new tokens fed."""
    threads = torch.get_num_threads()
    axes = {
        axis: [measure(axis, value, repeats) for value in values] for axis, values in AXES.items()
    }
    return {"base": asdict(BASE), "repeats": repeats, "threads": threads, "axes": axes}


def measure(axis: str, value: int, repeats: int) -> dict[str, Any]:
    """One point of the curves; the runs take turns."""
    shape = BASE if axis == "pairs" else replace(BASE, **{axis: value})
    work = make_work(make_bench(shape, value if axis == "pairs" else 1), None, sample=2)
    with counted(work.bench.codi.loop) as passes:
        sweep(work)
    runs = {name: run for name, run in runs_to_time(work, passes).items() if name in LINES}
    return {
        "value": value,
        "cells": sum(job.plan.cells.numel() for job in work.jobs),
        "tokens": sum(batch * new for batch, new in passes.fed),
        "seconds": take_turns(runs, work.bench, repeats),
    }


def figure(found: dict[str, Any]) -> go.Figure:
    """A panel per axis: seconds of a whole sweep, with the spread of the repeats."""
    panels = make_subplots(rows=2, cols=2, subplot_titles=list(found["axes"]))
    for i, points in enumerate(found["axes"].values()):
        for name, label in LINES.items():
            seconds = [point["seconds"][name] for point in points]
            spread = {
                "array": [s["most"] - s["median"] for s in seconds],
                "arrayminus": [s["median"] - s["least"] for s in seconds],
            }
            line = go.Scatter(
                x=[point["value"] for point in points],
                y=[s["median"] for s in seconds],
                error_y=spread,
                mode="lines+markers",
                name=label,
                legendgroup=name,
                showlegend=i == 0,
                line_color=COLOURS[name],
                customdata=[(point["cells"], point["tokens"]) for point in points],
                hovertemplate="%{x}: %{y:.3f} s<br>%{customdata[0]} cells, %{customdata[1]} tokens",
            )
            panels.add_trace(line, row=i // 2 + 1, col=i % 2 + 1)
    panels.update_yaxes(title_text="seconds", type="log", dtick=1)
    panels.update_xaxes(rangemode="tozero")
    panels.update_layout(
        title="Seconds of a sweep over all layers and latents",
        height=700,
        legend={"orientation": "h", "y": -0.08},
    )
    return panels
