"""How fast attribution of all places is, beside forward and backward passes over as many tokens."""

from collections.abc import Callable
from typing import Any

import torch

from codi_lens.analysis.attribution import attribute
from codi_lens.model.devices import pick_dtype
from codi_lens.patching.settings import Label
from experiments.benchmarks.floor import counted
from experiments.benchmarks.models import Bench, make_bench
from experiments.benchmarks.timing import medians

STEPS = 10


def compare_attribution(shape: str, repeats: int, device: str, dtype: str) -> dict[str, Any]:
    """Seconds of one pair's attribution, and of plain passes, taking turns.

    All heads, all MLPs and the residual stream behind every layer, at every latent, integrated over ten points. Plain: for
    every point one forward and one backward pass of plain transformers over the same tokens in one sequence.
    """
    bench = make_bench(shape, 1, device, pick_dtype(dtype))
    codi, layers = bench.codi, range(bench.codi.model.cfg.n_layers)
    places: list[Label] = [*layers, *(f"blocks.{layer}.hook_mlp_out" for layer in layers)]
    places += [f"{layer}.{head}" for layer in layers for head in range(codi.model.cfg.n_heads)]

    def ours() -> None:
        attribute(codi, bench.pairs, places=places, steps=STEPS, fidelity_cells=0)

    with counted(codi.loop) as passes:
        ours()
    fed = sum(new for batch, new in passes.fed if batch == STEPS)
    ways: dict[str, Callable[[], None]] = {"attribution": ours, "plain": plain(bench, fed)}
    seconds = medians(ways, repeats)
    return {
        "shape": shape,
        "places": len(places) * codi.config.num_latents,
        "steps": STEPS,
        "tokens": fed,
        "device": device,
        "dtype": dtype,
        "repeats": repeats,
        "seconds": seconds,
        "ratio": seconds["attribution"] / seconds["plain"],
    }


def plain(bench: Bench, tokens: int) -> Callable[[], None]:
    """Forward and backward passes over as many sequences of so many tokens as there are points."""
    model = bench.plain.requires_grad_(False)
    width = model.config.hidden_size

    def run() -> None:
        embeddings = torch.randn(STEPS, tokens, width, device=model.device, dtype=model.dtype)
        states = model.base_model(
            inputs_embeds=embeddings.requires_grad_(), use_cache=False
        ).last_hidden_state
        model.lm_head(states[:, -1]).sum().backward()

    return run


def table(found: dict[str, Any]) -> str:
    """The figures in words."""
    return (
        f"{found['shape']}: {found['places']} places of one pair, {found['steps']} points, {found['tokens']} tokens each, "
        f"{found['dtype']} on {found['device']}; medians of {found['repeats']}, in seconds\n\n"
        f"  attribution {found['seconds']['attribution']:.3f}\n"
        f"  plain forward and backward passes {found['seconds']['plain']:.3f}\n"
        f"  ratio {found['ratio']:.2f}"
    )
