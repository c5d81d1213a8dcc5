"""Pairs -> one map: means with intervals, recovery as a ratio of sums, and the cells that stand out.

Intervals are percentile bootstrap intervals (95%, seeded) that resample pairs (Efron 1979).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from codi_lens.errors import UserError, one_of
from codi_lens.patching.effects import DIRECT, INDIRECT, RESAMPLE, TOTAL
from codi_lens.patching.metrics import METRICS
from codi_lens.patching.result import IN_SWEEP, Sweep
from codi_lens.patching.settings import Label

RESAMPLES = 1000
INTERVAL = (0.025, 0.975)


class ByMetric(dict[str, Float[Tensor, "effect row column"]]):
    """Tensors by metric; asking for one that is not there is a `UserError` that lists those that are."""

    def __missing__(self, metric: str) -> Float[Tensor, "effect row column"]:
        return self[one_of(metric, self, "metric", IN_SWEEP)]


@dataclass(frozen=True)
class Aggregate:
    """A sweep over some of its pairs: [effect, row, column]. Without any value a cell is NaN."""

    n: int
    """Pairs in this aggregate."""
    n_recovery: int
    """Those of them that recovery is defined for; the rest are left out of it."""
    means: ByMetric
    """Mean over the pairs, per metric; for `recovery`, the ratio of sums."""
    low: ByMetric
    high: ByMetric
    """Bounds of the 95% bootstrap interval of `means`."""
    recovery_median: Float[Tensor, "effect row column"]


def competent(sweep: Sweep) -> Bool[Tensor, " pair"]:
    """Pairs of which the model answers both questions right."""
    return torch.tensor([o.base.correct and o.source.correct for o in sweep.outcomes])


def groups(sweep: Sweep) -> dict[str, Bool[Tensor, " pair"]]:
    """The groups of pairs that are always aggregated: all, competent, by operand, same answer.

    Pairs with the same answer on both sides are in the group "same_answer" alone, if there are any.
    """
    same = torch.tensor([pair.same_answer for pair in sweep.pairs])
    chosen = {"all": ~same, "competent": ~same & competent(sweep)}
    for name in sorted({pair.operand for pair in sweep.pairs if pair.operand is not None}):
        own = torch.tensor([pair.operand == name for pair in sweep.pairs])
        chosen[f"operand {name}"] = ~same & own
    if same.any():
        chosen["same_answer"] = same
    return chosen


def aggregate(sweep: Sweep, chosen: Bool[Tensor, " pair"] | None = None) -> Aggregate:
    """Averages the metrics of the chosen pairs (None: all whose answers differ).

    The intervals are those of the sweep's seed, wherever they are shown.

    Raises:
        UserError: the sweep has no pairs at all.
    """
    if not sweep.outcomes:
        raise UserError("this sweep has no pairs; there is nothing to aggregate")
    if chosen is None:
        chosen = groups(sweep)["all"]
    seed = sweep.settings.seed
    defined = chosen & sweep.has_recovery
    kept = int(defined.sum())
    picks = {n: resamples(n, seed) for n in (int(chosen.sum()), kept)}
    means, low, high = ByMetric(), ByMetric(), ByMetric()
    for name in sorted(sweep.outcomes[0].metrics, key="recovery".__eq__):  # that last
        of = defined if name == "recovery" else chosen
        ratios = resampled(*sums(sweep, name, of), picks[int(of.sum())])
        means[name], (low[name], high[name]) = ratios[0], interval(ratios[1:])
    # A quantile, since torch's median of an even number of values is the lower middle one.
    median = sweep.values("recovery")[defined].nanquantile(0.5, 0) if kept else means["recovery"]
    return Aggregate(int(chosen.sum()), kept, means, low, high, median)


def sums(
    sweep: Sweep, metric: str, chosen: Bool[Tensor, " pair"]
) -> tuple[Float[Tensor, "chosen effect row column"], Float[Tensor, "chosen effect row column"]]:
    """What is summed over the chosen pairs, and what that is divided by: their ratio is a metric's mean."""
    if metric == "recovery":
        return sweep.recovered(chosen)
    values = sweep.values(metric)[chosen].double()
    return values.nan_to_num(), (~values.isnan()).double()


def resamples(n: int, seed: int) -> Float[Tensor, "resample pair"]:
    """How often each pair is drawn: first the sample itself, then the bootstrap samples."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(max(n, 1), (RESAMPLES, n), generator=generator)
    counts = torch.zeros(RESAMPLES, n, dtype=torch.float64)
    counts.scatter_add_(1, draws, torch.ones_like(draws, dtype=torch.float64))
    return torch.cat([torch.ones(1, n, dtype=torch.float64), counts])


def resampled(
    above: Float[Tensor, "pair effect row column"],
    below: Float[Tensor, "pair effect row column"],
    picks: Float[Tensor, "resample pair"],
) -> Float[Tensor, "resample effect row column"]:
    """Σ above / Σ below over the pairs of every resample; NaN where there is nothing."""
    ratios = (picks @ above.flatten(1)) / (picks @ below.flatten(1))
    return ratios.reshape(-1, *above.shape[1:])


def interval(found: Float[Tensor, "resample ..."]) -> Float[Tensor, "2 ..."]:
    """The interval's ends of each cell over the resamples that have a value."""
    # NumPy's selects where torch's sorts: a third of the time, the same numbers.
    ends = torch.from_numpy(np.quantile(found.numpy(), INTERVAL, axis=0))
    gaps = found.isnan().any(0)
    if gaps.any():
        quantiles = torch.tensor(INTERVAL, dtype=torch.float64)
        ends[:, gaps] = found[:, gaps].nanquantile(quantiles, dim=0)
    return ends


def donor_threshold(sweep: Sweep, group: Aggregate, metric: str = "recovery") -> float | None:
    """The largest |effect| that another pair's activations have anywhere; None without controls.

    What a patch from the right source does counts as an effect of its content only above this.
    """
    effects = sweep.axes["effect"]
    if RESAMPLE not in effects:
        return None
    resampled = group.means[metric][effects.index(RESAMPLE)]
    finite = resampled[resampled.isfinite()].abs()
    return float(finite.max()) if len(finite) else None


def interaction(sweep: Sweep, group: Aggregate, metric: str) -> Float[Tensor, "row column"] | None:
    """Total − direct − indirect effect; None where the sweep lacks one of them or the metric no sign."""
    effects, parts = sweep.axes["effect"], (TOTAL, DIRECT, INDIRECT)
    if not METRICS[metric].adds_up or not set(parts) <= set(effects):
        return None
    total, direct, indirect = (group.means[metric][effects.index(name)] for name in parts)
    return total - direct - indirect


def top_cells(
    values: Float[Tensor, "row column"],
    zeros: Bool[Tensor, "row column"],
    count: int = 5,
    threshold: float | None = None,
) -> list[tuple[int, int]]:
    """(row, column) of the largest values, structural zeros and NaN left out, ties by index.

    With a threshold, values whose magnitude does not exceed it are left out too.
    """
    candidates = [
        (float(values[i, j]), (i, j)) for i, j in (~zeros & values.isfinite()).nonzero().tolist()
    ]
    ranked = sorted(candidates, key=lambda one: (-one[0], one[1]))
    passing = [cell for value, cell in ranked if threshold is None or abs(value) > threshold]
    return passing[:count]


def as_mapping(
    values: Float[Tensor, "..."], *axes: Sequence[Label]
) -> dict[str, object] | float | None:
    """Nested {label: … value} with text keys, as JSON has it; NaN becomes None."""
    if not axes:
        return finite(float(values))
    first, *rest = axes
    return {str(label): as_mapping(values[i], *rest) for i, label in enumerate(first)}


def finite(value: float) -> float | None:
    """The value, or None where it is NaN: "not defined" in JSON."""
    return None if value != value else value
