"""Techniques as methods that can be scored: each says how much every thought matters for every pair.

A method is a function of a model and pairs, and sees nothing else: no truth, no name. It returns scores [pair, thought], or
`Findings` with more. Thought k is the vector that is fed at latent k.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.attribution import attribute
from codi_lens.analysis.circuits import Edges, measure_faithfulness, run_circuits, score_edges
from codi_lens.analysis.probes import probe
from codi_lens.analysis.subspaces import align, examples_of
from codi_lens.data.pairs import SIDES, Pair, side_of
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.api import (
    knock_out,
    measure_influence,
    patch_iteratively,
    patch_layers,
    patch_positions,
    patch_routes,
)
from codi_lens.patching.plan import Given
from codi_lens.patching.result import Sweep

EDGE_STEPS = 5
"""Points of the integral of edge attribution."""
SUBSPACE_RANK, SUBSPACE_STEPS, SUBSPACE_LR = 24, 10, 0.2
LEAST = 0.1
"""What is below a tenth of an effect is no finding, whatever the control says."""
Scores: TypeAlias = Float[Tensor, "pair thought"]


@dataclass(frozen=True)
class Findings:
    """What a method says of a model."""

    scores: Scores
    """How much each thought matters; NaN counts as nothing."""
    threshold: float = LEAST
    """A thought whose mean score over pairs is larger, in absolute value, is claimed to matter."""
    routes: dict[str, Float[Tensor, "pair latent"]] = field(default_factory=dict)
    """Route out of a latent, "state" or "kv" -> how much goes that way."""
    runs: int | None = None
    """Runs of the loop per pair."""
    cpr: float | None = None
    """Of circuits: area under the faithfulness of those with the largest scores."""
    cmd: float | None = None
    """Of circuits: how far those with the largest absolute scores are from being faithful, as an area."""


Method: TypeAlias = Callable[[HookedCodi, Sequence[Pair]], Findings | Scores]
METHODS: dict[str, Method] = {}
"""By name, in the order of the table."""


def register_method(name: str) -> Callable[[Method], Method]:
    """Puts a method on the scorecard, under a name."""

    def register(method: Method) -> Method:
        METHODS[name] = method
        return method

    return register


def _cleared(recovered: Scores) -> Scores:
    """Recovery pair by pair, nothing where it is no finding: rounding would be ranked otherwise."""
    return torch.where(recovered.abs() < LEAST, 0.0, recovered)


@register_method("random scores")
def random_scores(codi: HookedCodi, pairs: Sequence[Pair]) -> Findings:
    """What guessing is worth: uniform numbers, the same for every pair, so that they do not average out."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand((1, codi.num_latents()), generator=generator)
    return Findings(drawn.expand(len(pairs), -1), runs=0)


def _positions(effect: str) -> Method:
    def method(codi: HookedCodi, pairs: Sequence[Pair]) -> Findings:
        sweep = patch_positions(codi, pairs, layers=["thought"], effect="all", controls=True)
        control = sweep.mean("recovery", effect="random_direction").nan_to_num()
        threshold = max(LEAST, float(control.abs().max()))
        scores = _cleared(sweep.values("recovery", effect=effect)[:, 0])
        return Findings(scores, threshold, runs=_runs(sweep, [effect]))

    return method


for _effect in ("identity", "total", "direct", "indirect"):
    register_method(f"position-wise {_effect}")(_positions(_effect))


@register_method("layer-wise")
def layer_wise(codi: HookedCodi, pairs: Sequence[Pair]) -> Findings:
    """All latents of a layer together: one number for all thoughts, that of the best layer."""
    sweep = patch_layers(codi, pairs)
    best = sweep.values("recovery", effect="total")[:, :, 0].amax(1, keepdim=True)
    return Findings(best.expand(-1, codi.num_latents()), runs=_runs(sweep))


@register_method("cumulative")
def cumulative(codi: HookedCodi, pairs: Sequence[Pair]) -> Findings:
    """Thoughts 0 … k exchanged together: what thought k adds to those before it."""
    sweep = patch_iteratively(codi, pairs, layers=["thought"])
    joint = sweep.values("recovery", effect="cumulative")[:, 0]
    added = joint.diff(dim=1, prepend=torch.zeros(len(pairs), 1))
    return Findings(_cleared(added), runs=_runs(sweep))


@register_method("chains from every start")
def chained(codi: HookedCodi, pairs: Sequence[Pair]) -> Findings:
    """What is left of an exchanged thought when it may pass on through the next thought alone."""
    sweep = patch_iteratively(codi, pairs, layers=["thought"], starts=None)
    count = codi.num_latents()
    chains = ["chained", *(f"chained from {start}" for start in range(1, count))]
    values = torch.stack(
        [
            sweep.values("recovery", effect=chain)[:, 0, min(start + 1, count - 1)]
            for start, chain in enumerate(chains)
        ],
        dim=1,
    )
    return Findings(_cleared(values), runs=_runs(sweep))


@register_method("routes")
def routes(codi: HookedCodi, pairs: Sequence[Pair]) -> Findings:
    """What a latent's keys and values carry, or its thought as the state that the latent before it leaves by."""
    sweep = patch_routes(codi, pairs)
    ways = {
        name: sweep.values("recovery", effect="latent", row=name).nan_to_num()
        for name in ("state", "kv")
    }
    fed = torch.cat([torch.zeros(len(pairs), 1), ways["state"][:, :-1]], dim=1)
    scores = _cleared(torch.maximum(fed, ways["kv"]))
    return Findings(scores, routes=ways, runs=_runs(sweep))


@register_method("attention knockout")
def knockout(codi: HookedCodi, pairs: Sequence[Pair]) -> Findings:
    """How often the answer changes when a later step cannot attend to a latent; the step that suffers most."""
    sweep = knock_out(codi, pairs)
    columns = [sweep.axes["column"].index(k) for k in range(codi.num_latents())]
    changed = 1 - sweep.values("base_given")[:, 0][:, :, columns]
    return Findings(changed.nan_to_num().amax(1), runs=_runs(sweep))


@register_method("influence")
def influence(codi: HookedCodi, pairs: Sequence[Pair]) -> Findings:
    """How far later thoughts move, or how often the answer changes, when a thought is set to its mean."""
    sweep = measure_influence(codi, pairs)
    moved = sweep.values("thought_distance")[:, 0].nan_to_num().amax(-1)
    changed = 1 - sweep.values("base_given", column="answer")[:, 0]
    return Findings(torch.maximum(moved, changed), runs=_runs(sweep))


def _ablation(intervention: str) -> Method:
    def method(codi: HookedCodi, pairs: Sequence[Pair]) -> Findings:
        sweep = patch_positions(
            codi, pairs, layers=["thought"], intervention=intervention, direction="noise"
        )
        return Findings(1 - sweep.values("base_given")[:, 0, 0], runs=_runs(sweep))

    return method


for _intervention in ("zero", "mean", "resample"):
    register_method(f"{_intervention} ablation")(_ablation(_intervention))


def _attribution(how: Literal["integrated", "gradient"]) -> Method:
    def method(codi: HookedCodi, pairs: Sequence[Pair]) -> Findings:
        found = attribute(
            codi, pairs, places=["thought"], method=how, metric="recovery", fidelity_cells=0
        )
        return Findings(found.scores[:, 0], runs=2 + (found.steps if how == "integrated" else 1))

    return method


register_method("attribution integrated")(_attribution("integrated"))
register_method("attribution gradient")(_attribution("gradient"))


@register_method("edge attribution")
def edge_attribution(codi: HookedCodi, pairs: Sequence[Pair]) -> Findings:
    """The largest score of an edge that leads from a thought, as a share of the gap between the two runs."""
    edges = score_edges(codi, pairs, steps=EDGE_STEPS)
    graph = edges.graph
    ends = torch.stack([graph.edges, torch.zeros_like(graph.edges)])
    clean, corrupted = run_circuits(codi, pairs, ends).double()
    latents = [graph.steps.index(k) for k in range(graph.num_latents)]
    fed = edges.scores[:, latents, :, 0].abs().amax(2)
    some = slice(None, None, 6)
    curve = measure_faithfulness(codi, Edges(graph, tuple(pairs[some]), edges.scores[some]))
    scores = fed / (clean - corrupted)[:, None]
    return Findings(scores, runs=2 + EDGE_STEPS, cpr=curve.cpr, cmd=curve.cmd)


@register_method("subspaces")
def subspaces(codi: HookedCodi, pairs: Sequence[Pair]) -> Findings:
    """How often a learned subspace of a thought makes the answer follow the result that differs, on held-out pairs."""
    first = [first_change(pair) for pair in pairs]
    scores, random = torch.zeros(len(pairs), codi.num_latents()), LEAST
    for result in set(first):
        own = [i for i, changed in enumerate(first) if changed == result]
        if len(own) < 2:  # of a single pair nothing could be held out
            continue
        asked = examples_of([pairs[i] for i in own], result)
        for k in range(codi.num_latents()):
            found = align(
                codi, asked, "thought", k, SUBSPACE_RANK, steps=SUBSPACE_STEPS, lr=SUBSPACE_LR
            )
            scores[own, k], random = found.iia, max(random, found.random)
    return Findings(scores, random, runs=SUBSPACE_STEPS + 5)


@register_method("logit lens")
def lens(codi: HookedCodi, pairs: Sequence[Pair]) -> Findings:
    """How often the state that makes a thought says, first of all tokens, a result that differs, on both sides."""
    said = []
    for side in SIDES:
        asked = [side_of(pair, side) for pair in pairs]
        with torch.no_grad():
            run = codi.run_with_hooks([a.question for a in asked], [a.answer for a in asked])
            logits = codi.loop.unembed(run.final_states[:, : codi.num_latents()])
        first = logits.argmax(-1)
        said.append(
            torch.stack(
                [_says(codi, pair, side, ids) for pair, ids in zip(pairs, first, strict=True)]
            )
        )
    return Findings(torch.stack(said).amin(0), runs=2)


def _says(codi: HookedCodi, pair: Pair, side: str, first: Tensor) -> Tensor:
    """For each thought, whether its token is one of the results from the first on that differs."""
    own = results_of(pair)[side]
    wanted = {str(value) for value in own[first_change(pair) :]}
    texts = [str(codi.tokens.tokenizer.decode([token])).strip() for token in first.tolist()]
    return torch.tensor([float(text in wanted) for text in texts])


@register_method("probe")
def probed(codi: HookedCodi, pairs: Sequence[Pair]) -> Findings:
    """How often a linear probe, fitted on other pairs, reads a result that differs off the thought, on both sides.

    What it can read of random labels is no finding.
    """
    changes = torch.tensor([first_change(pair) for pair in pairs])
    scores, control = torch.zeros(len(pairs), codi.num_latents()), 0.0
    for result in range(min(len(own) for pair in pairs for own in results_of(pair).values())):
        found = probe(codi, pairs, f"v{result + 1}", places=["thought"])
        both = found.correct[:, 0].unflatten(0, (len(pairs), len(SIDES))).all(1)
        behind = (changes <= result)[:, None]
        scores = torch.maximum(scores, (both & behind).to(scores))
        control = max(control, float(found.control.max()))
    return Findings(scores, max(LEAST, control), runs=2)


def results_of(pair: Pair) -> dict[str, tuple[object, ...]]:
    """Side -> the results on the way and the answer."""
    return {
        side: (*side_of(pair, side).intermediates, side_of(pair, side).answer) for side in SIDES
    }


def first_change(pair: Pair) -> int:
    """Index of the first result that differs between the sides."""
    clean, corrupted = results_of(pair).values()
    return next(i for i, (a, b) in enumerate(zip(clean, corrupted, strict=True)) if a != b)


def _runs(sweep: Sweep, effects: Sequence[str] | None = None) -> int:
    """Runs of the loop per pair, for some effects alone: cells, and the two unpatched runs."""
    plan = sweep.experiment.plan(
        sweep.settings, Given(0, sweep.num_layers, sweep.served_heads, with_donor=True)
    )
    if effects is None:
        return len(plan.runs)
    return 2 + len(effects) * plan.cells[0].numel()
