"""Pairs -> one map: means over pairs, recovery as a ratio of sums, and the cells that stand out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from codi_lens.metrics import CELL_METRICS
from codi_lens.sweeps import Sweep


@dataclass(frozen=True)
class Aggregate:
    """A sweep's maps over some of its pairs. Cells without any defined value are NaN."""

    n: int
    """Pairs in this aggregate."""
    n_recovery: int
    """Those of them that recovery is defined for; the rest are left out of it."""
    means: dict[str, Float[Tensor, "layer position"]]
    """Mean over the pairs, per metric. `recovery` is not a mean: see `recovery_map`."""
    recovery_median: Float[Tensor, "layer position"]


def competent(sweep: Sweep) -> Bool[Tensor, " pair"]:
    """Pairs of which the model answers both questions right."""
    return torch.tensor([o.base.correct and o.source.correct for o in sweep.outcomes])


def aggregate(sweep: Sweep, chosen: Bool[Tensor, " pair"] | None = None) -> Aggregate:
    """Averages the metrics of the chosen pairs (None: all)."""
    if chosen is None:
        chosen = torch.ones(len(sweep.outcomes), dtype=torch.bool)
    metrics = {name: values[chosen] for name, values in sweep.metrics.items()}
    means = {name: metrics[name].nanmean(0) for name in CELL_METRICS if name != "recovery"}
    means["recovery"], kept = recovery_map(sweep, chosen)
    median = metrics["recovery"].nanmedian(0).values if kept else means["recovery"]
    return Aggregate(int(chosen.sum()), kept, means, median)


def recovery_map(
    sweep: Sweep, chosen: Bool[Tensor, " pair"]
) -> tuple[Float[Tensor, "layer position"], int]:
    """Σ (LD_patched − LD_base) / Σ (LD_source − LD_base), and the number of pairs in the sums.

    A ratio of sums, so that a pair with a small gap does not outweigh the others. Only pairs whose own
    recovery is defined take part.
    """
    defined = chosen & sweep.metrics["recovery"].isfinite().flatten(1).all(1)
    patched = sweep.metrics["logit_diff"][defined]
    runs = [o for o, kept in zip(sweep.outcomes, defined.tolist(), strict=True) if kept]
    base, source = (
        torch.tensor([run.metrics["logit_diff"] for run in side], dtype=patched.dtype)
        for side in ([o.base for o in runs], [o.source for o in runs])
    )
    gained = (patched - base[:, None, None]).sum(0)
    if not runs:
        return torch.full_like(gained, torch.nan), 0
    return gained / (source - base).sum(), len(runs)


def top_cells(
    values: Float[Tensor, "layer position"], zeros: Bool[Tensor, "layer position"], count: int = 5
) -> list[tuple[int, int]]:
    """Indices (row, column) of the largest values; structural zeros and NaN are left out."""
    candidates = [
        (float(values[i, j]), i, j) for i, j in (~zeros & values.isfinite()).nonzero().tolist()
    ]
    ranked = sorted(candidates, key=lambda cell: (-cell[0], cell[1], cell[2]))
    return [(i, j) for _, i, j in ranked[:count]]


def by_operand(sweep: Sweep) -> dict[str, Aggregate]:
    """One aggregate per operand that was changed, for pairs that know it."""
    operands = [pair.operand for pair in sweep.pairs]
    return {
        name: aggregate(sweep, torch.tensor([operand == name for operand in operands]))
        for name in sorted({operand for operand in operands if operand is not None})
    }


def as_mapping(
    values: Float[Tensor, "layer position"], layers: Sequence[int], positions: Sequence[int]
) -> dict[str, dict[str, float | None]]:
    """{layer: {position: value}} with text keys, as JSON has it; NaN becomes None."""
    return {
        str(layer): {
            str(position): finite(float(values[i, j])) for j, position in enumerate(positions)
        }
        for i, layer in enumerate(layers)
    }


def finite(value: float) -> float | None:
    """The value, or None where it is NaN: "not defined" in JSON."""
    return None if value != value else value
