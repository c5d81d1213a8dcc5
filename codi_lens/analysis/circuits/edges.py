"""Edge attribution through the loop (EAP, Syed et al., arXiv 2310.10348; EAP-IG, Hanna et al., arXiv 2403.17806).

The score of an edge is (clean − corrupted of the sender's output) · ∂metric/∂(receiver's input), an estimate of what the
edge alone adds to the metric when it carries the clean run's value into the corrupted one. The metric is the logit
difference. The gradient goes through later thoughts and through keys and values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from codi_lens.analysis.attribution.gradients import (
    Asked,
    gradients,
    measured,
    run,
    unpatched,
)
from codi_lens.analysis.attribution.scores import between
from codi_lens.analysis.circuits.graph import Graph, split
from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError, whole_number
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Site
from codi_lens.patching.checks import check_lengths, check_pairs

METRIC = "logit_diff"


@dataclass(frozen=True)
class Edges:
    """Scores of all edges, for every pair."""

    graph: Graph
    pairs: tuple[Pair, ...]
    scores: Float[Tensor, "pair step receiver sender"]
    """In logits; 0 where there is no edge."""

    def mean(self) -> Float[Tensor, "step receiver sender"]:
        """The mean over pairs."""
        return self.scores.mean(0)

    def largest(self, count: int, *, signed: bool) -> Bool[Tensor, "step receiver sender"]:
        """The edges with the largest scores, or, if not `signed`, the largest absolute scores."""
        mean, there = self.mean(), self.graph.edges
        ranked = torch.where(there, mean if signed else mean.abs(), -torch.inf).flatten()
        chosen = torch.zeros_like(ranked, dtype=torch.bool)
        chosen[ranked.argsort(descending=True, stable=True)[:count]] = True
        return chosen.view_as(mean) & there

    def named(
        self, kept: Bool[Tensor, "step receiver sender"]
    ) -> list[tuple[str, str, str, float]]:
        """(step, sender, receiver, score) of some edges, the largest first."""
        graph, mean = self.graph, self.mean()
        ranked = sorted(kept.nonzero().tolist(), key=lambda edge: -abs(float(mean[tuple(edge)])))
        return [
            (str(graph.steps[s]), graph.senders[u], graph.receivers[r], float(mean[s, r, u]))
            for s, r, u in ranked
        ]


def score_edges(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    *,
    steps: int = 5,
    num_latents: int | None = None,
) -> Edges:
    """Scores every edge of the unrolled loop.

    Args:
        codi: the model.
        pairs: whose prompts are equally long on both sides.
        steps: points between the corrupted and the clean prompt at which the gradient is taken.
        num_latents: thoughts; the model's own number if None.

    Raises:
        UserError: pairs of unequal length, or that the model cannot be run with.
    """
    whole_number(steps, "steps", at_least=1)
    graph = Graph.of(codi, num_latents)
    check_alike(codi, pairs, graph.num_latents)
    with split(codi):
        scores = [_scored(codi, pair, graph, steps) for pair in pairs]
    return Edges(graph, tuple(pairs), torch.stack(scores))


def check_alike(codi: HookedCodi, pairs: Sequence[Pair], num_latents: int) -> None:
    """Checks that there are pairs, and that the two prompts of each are equally long.

    Raises:
        UserError: names the first pair that is not so.
    """
    if not pairs:
        raise UserError("there are no pairs")
    check_pairs(codi, pairs, num_latents)
    why = "edges carry activations position by position, so give pairs of equal length"
    check_lengths(codi, pairs, why)


def _scored(
    codi: HookedCodi, pair: Pair, graph: Graph, steps: int
) -> Float[Tensor, "step receiver sender"]:
    asked = Asked(codi, [pair], "denoise", METRIC, graph.num_latents)
    writes = [Site(name, step) for name, _ in graph.writes() for step in graph.steps]
    reads = [Site(name, step) for name, *_ in graph.reads() for step in graph.steps]
    plain, base, source = unpatched(asked, writes)
    share = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    rows = [0] * steps
    hooks, _ = between(
        asked, rows, share.to(codi.loop.device), base.kept["clean"], source.kept["clean"]
    )
    with torch.enable_grad():
        runs = run(asked, asked.questions("corrupted") * steps, rows, reads, hooks)
        slopes = gradients(asked, measured(asked, runs, rows, plain), runs)
    scores = torch.zeros(graph.edges.shape, dtype=torch.float64)
    for i, step in enumerate(graph.steps):
        changes = [
            _by_node(source.kept["clean"][Site(name, step)] - base.kept["clean"][Site(name, step)])
            for name, _ in graph.writes()
        ]
        change = torch.cat(changes, dim=2)[0]
        for name, own, before in graph.reads():
            slope = _by_node(slopes[Site(name, step)]).mean(0)
            scores[i, own, :before] = einsum(
                slope.detach().double().cpu(),
                change[:, :before].double().cpu(),
                "pos receiver d, pos sender d -> receiver sender",
            )
    return scores


def _by_node(activation: Tensor) -> Float[Tensor, "row pos node d_model"]:
    """Heads as they are; what is one node gets an axis of its own."""
    return activation if activation.ndim == 4 else activation[:, :, None]
