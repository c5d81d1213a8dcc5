"""Lenses: known results by layer and step, each beside its control; and how far lenses are from the final distribution."""

import plotly.graph_objects as go

from codi_lens.analysis.lenses import Decoded, HeldOut, LensMap
from codi_lens.plots.panels import Panel, draw

OWN, CONTROL = "own run", "another question's run"


def lens_map(found: LensMap) -> go.Figure:
    """Mean probability of every result, a row of two maps each: in its own run, and in another question's."""
    layers = range(next(iter(found.results.values())).probability.shape[1])
    panels = []
    for name, decoded in found.results.items():
        hover = _hover(decoded, found)
        for whose, shares in (
            (OWN, decoded.probability),
            (CONTROL, decoded.control_probability),
        ):
            n = f" (n = {len(decoded.questions)})" if whose == OWN else ""
            outlined = [decoded.best] if whose == OWN else []
            panels.append(
                Panel(
                    f"{name}, {whose}{n}",
                    shares.mean(0),
                    layers,
                    found.steps,
                    outlined=outlined,
                    meaning="most above its control",
                    hover=hover,
                )
            )
    return draw(
        panels,
        title=f"{found.kind.capitalize()} lens: can the results be read?",
        subtitle="mean probability; what can be read in another question's run as well is no evidence",
        colour="probability",
        signed=False,
        axes=("step", "layer"),
        across=2,
    )


def lens_divergence(held_out: HeldOut) -> go.Figure:
    """KL of the final distribution from both lenses', by layer and step, on held-out questions."""
    layers = range(len(held_out.logit))
    return draw(
        [
            Panel("logit lens", held_out.logit, layers, held_out.steps),
            Panel("tuned lens", held_out.tuned, layers, held_out.steps),
        ],
        title="How far is a lens from the model's final distribution?",
        subtitle=f"KL(final ‖ lens) in nats, means over {held_out.n} held-out questions",
        colour="KL (nats)",
        signed=False,
        axes=("step", "layer"),
    )


def _hover(decoded: Decoded, found: LensMap) -> list[list[str]]:
    """Probability and median rank of each cell, own and control."""
    own, control = decoded.probability.mean(0), decoded.control_probability.mean(0)
    rank, control_rank = decoded.rank.median(0).values, decoded.control_rank.median(0).values
    return [
        [
            f"layer {layer}, step {step}<br>{OWN}: {own[layer, i]:.3f}, median rank {rank[layer, i]}<br>"
            f"{CONTROL}: {control[layer, i]:.3f}, median rank {control_rank[layer, i]}"
            for i, step in enumerate(found.steps)
        ]
        for layer in range(len(own))
    ]
