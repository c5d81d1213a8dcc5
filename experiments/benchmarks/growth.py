"""How the cost of a sweep grows with layers, latents, prompt length and pairs, on small random models."""

from dataclasses import asdict, replace
from typing import Any

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from codi_lens.plots import style
from experiments.benchmarks.floor import counted
from experiments.benchmarks.models import Shape, make_bench
from experiments.benchmarks.runs import make_work, runs_to_time, sweep, take_turns

BASE = Shape(layers=6, d_model=256, heads=4, kv_heads=2, d_mlp=1024, d_vocab=8000, prompt=60)
AXES = {
    "layers": (2, 4, 8),
    "latents": (1, 2, 4, 8),
    "prompt": (25, 100, 400),
    "pairs": (1, 2, 4),
}
"""Each is varied alone, the others as in `BASE` with one pair."""


TITLES = {"prompt": "prompt, in tokens"}
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
    changed: dict[str, Any] = {} if axis == "pairs" else {axis: value}
    shape = replace(BASE, **changed)
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
    panels = make_subplots(
        rows=2,
        cols=2,
        subplot_titles=[TITLES.get(axis, axis) for axis in found["axes"]],
        shared_yaxes=True,
        vertical_spacing=0.14,
    )
    for i, points in enumerate(found["axes"].values()):
        for name in LINES:
            line = curve(points, name).update(showlegend=i == 0)
            panels.add_trace(line, row=i // 2 + 1, col=i % 2 + 1)
    panels.update_yaxes(type="log", dtick=1)
    panels.update_yaxes(title_text="seconds", col=1)
    panels.update_layout(legend={"orientation": "h", "y": -0.08})
    base = ", ".join(f"{name} {value}" for name, value in found["base"].items())
    subtitle = f"all layers × latents; one axis varied, else {base} and one pair; medians of "
    subtitle += f"{found['repeats']} on {found['threads']} threads, bars from least to most"
    lined = style.lined(panels)
    return style.headed(lined, "Seconds of a sweep", subtitle, width=760, body=520, extra=40)


def curve(points: list[dict[str, Any]], name: str) -> go.Scatter:
    """One line of a panel."""
    seconds = [point["seconds"][name] for point in points]
    return go.Scatter(
        x=[point["value"] for point in points],
        y=[s["median"] for s in seconds],
        error_y={
            "array": [s["most"] - s["median"] for s in seconds],
            "arrayminus": [s["median"] - s["least"] for s in seconds],
        },
        mode="lines+markers",
        name=LINES[name],
        legendgroup=name,
        line_color=COLOURS[name],
        customdata=[(point["cells"], point["tokens"]) for point in points],
        hovertemplate="%{x}: %{y:.3f} s<br>%{customdata[0]} cells, %{customdata[1]} tokens",
    )
