"""The exact run of a circuit, and how faithful circuits of every size are.

A circuit runs on the clean question, with every edge outside it carrying what it carries in the corrupted run. Its
faithfulness is f = (m − m_corrupted) / (m_clean − m_corrupted), where m is the logit difference, summed over pairs. CPR is
the area under f(n) for the n edges with the largest scores, CMD the area of |1 − f(n)| for the n with the largest
absolute scores, over the share of edges from the smallest circuit to all (Mueller et al., MIB, arXiv 2504.13151).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from codi_lens.analysis.circuits.edges import Edges, check_alike
from codi_lens.analysis.circuits.graph import Graph, split
from codi_lens.data.pairs import Pair
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import AddressedHook, HookFn, Site, Step, capture
from codi_lens.patching.answer_logits import raised
from codi_lens.patching.readout import READOUTS

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of all edges, in the circuits of a curve."""
TOGETHER = 64
"""Circuits that run side by side."""


@dataclass(frozen=True)
class Faithfulness:
    """f of circuits of growing size."""

    sizes: tuple[int, ...]
    """Edges in each circuit."""
    edges: int
    """Edges in all."""
    signed: tuple[float, ...]
    """f of those with the largest scores."""
    absolute: tuple[float, ...]
    """f of those with the largest absolute scores."""

    @property
    def cpr(self) -> float:
        """Area under f, signed ranking; larger is better."""
        return area(self.shares, self.signed)

    @property
    def cmd(self) -> float:
        """Area of |1 − f|, absolute ranking; 0 is best."""
        return area(self.shares, [abs(1 - f) for f in self.absolute])

    @property
    def shares(self) -> list[float]:
        """Share of all edges in each circuit."""
        return [size / self.edges for size in self.sizes]


def area(x: Sequence[float], y: Sequence[float]) -> float:
    """By the trapezoid rule."""
    return float(torch.trapezoid(torch.tensor(y).double(), torch.tensor(x).double()))


@torch.no_grad()
def run_circuits(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    circuits: Bool[Tensor, "circuit step receiver sender"],
    num_latents: int | None = None,
) -> Float[Tensor, "circuit pair"]:
    """The logit difference of every pair when only a circuit's edges carry the clean run's values.

    Args:
        codi: the model.
        pairs: of equal length on both sides.
        circuits: each with its edges, as `Graph.edges` has them; they run side by side.
        num_latents: thoughts; the model's own number if None.

    Raises:
        UserError: pairs of unequal length, or that the model cannot be run with.
    """
    graph = Graph.of(codi, num_latents)
    check_alike(codi, pairs, graph.num_latents)
    with split(codi):
        return torch.stack([_run(codi, pair, graph, circuits) for pair in pairs], dim=1)


def patch_edges(
    codi: HookedCodi, edges: Edges, kept: Bool[Tensor, "step receiver sender"]
) -> dict[tuple[int, int, int], float]:
    """Exact effects of single edges, in logits, mean over pairs: what the clean run loses without each.

    One edge alone would carry little: what comes before and after it has to be there too.
    """
    chosen = [(int(s), int(r), int(u)) for s, r, u in kept.nonzero().tolist()]
    without = edges.graph.edges.repeat(len(chosen) + 1, 1, 1, 1)
    for i, edge in enumerate(chosen):
        without[i, *edge] = False
    values = []
    for part in without.split(TOGETHER):
        values.append(run_circuits(codi, edges.pairs, part, edges.graph.num_latents).mean(1))
    means = torch.cat(values)
    return dict(zip(chosen, (means[-1] - means[:-1]).tolist(), strict=True))


def measure_faithfulness(
    codi: HookedCodi, edges: Edges, shares: Sequence[float] = SHARES
) -> Faithfulness:
    """The curve of the circuits that some scores choose."""
    graph, total = edges.graph, int(edges.graph.edges.sum())
    sizes = sorted({max(1, round(share * total)) for share in shares})
    circuits = [torch.zeros_like(graph.edges), graph.edges]
    circuits += [edges.largest(size, signed=signed) for signed in (True, False) for size in sizes]
    done = run_circuits(codi, edges.pairs, torch.stack(circuits), graph.num_latents)
    nothing, everything, *values = done.double().sum(1).tolist()
    f = [(value - nothing) / (everything - nothing) for value in values]
    return Faithfulness(tuple(sizes), total, tuple(f[: len(sizes)]), tuple(f[len(sizes) :]))


def _run(
    codi: HookedCodi,
    pair: Pair,
    graph: Graph,
    circuits: Bool[Tensor, "circuit step receiver sender"],
) -> Float[Tensor, " circuit"]:
    writes = [Site(name, step) for name, _ in graph.writes() for step in graph.steps]
    into: dict[Site, list[Tensor]] = {site: [] for site in writes}
    keeping = [(site, capture(values)) for site, values in into.items()]
    answer, count = pair.clean.answer, graph.num_latents
    codi.run_with_hooks(pair.corrupted.question, answer, fwd_hooks=keeping, num_latents=count)
    hooks: list[AddressedHook] = []
    missing = (graph.edges & ~circuits).to(codi.loop.device)
    for i, step in enumerate(graph.steps):
        corrupted = {name: into[Site(name, step)][0] for name, _ in graph.writes()}
        hooks += _at_step(graph, step, corrupted, missing[:, i])
    many = [pair.clean.question] * len(circuits)
    done = codi.run_with_hooks(many, [answer] * len(many), fwd_hooks=hooks, num_latents=count)
    tokens = READOUTS["stem"].answer(codi, pair)
    at = tokens.first_difference or 0
    logits = raised(done.logits[:, len(tokens.stem) + at])
    return (logits[:, tokens.clean[at]] - logits[:, tokens.corrupted[at]]).cpu()


def _at_step(
    graph: Graph,
    step: Step,
    corrupted: dict[str, Tensor],
    missing: Bool[Tensor, "circuit receiver sender"],
) -> list[AddressedHook]:
    """Hooks that note how senders differ from the corrupted run, and take from receivers what edges would not carry."""
    changes: list[Float[Tensor, "circuit pos node d_model"]] = []

    def note(name: str) -> HookFn:
        def hook_fn(activation: Tensor, hook: object) -> None:
            change = activation - corrupted[name]
            changes.append(change if change.ndim == 4 else change[:, :, None])

        return hook_fn

    def take(own: slice, before: int) -> HookFn:
        def hook_fn(activation: Tensor, hook: object) -> Tensor:
            change = torch.cat(changes, dim=2)[:, :, :before]
            lost = einsum(
                change,
                missing[:, own, :before].to(change),
                "circuit pos sender d, circuit receiver sender -> circuit pos receiver d",
            )
            return activation - (lost if activation.ndim == 4 else lost[:, :, 0])

        return hook_fn

    notes: list[AddressedHook] = [(Site(name, step), note(name)) for name, _ in graph.writes()]
    return notes + [(Site(name, step), take(own, before)) for name, own, before in graph.reads()]
