"""A sweep as maps that can be looked at: one [layer, column] grid per variant or strategy.

The three experiments have different axes; whoever draws or tabulates them wants rows and columns. Columns
are latent positions, iterations, or the single column "all" of a layer-wise sweep.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from codi_lens.analysis.aggregates import Aggregate, donor_threshold, top_cells
from codi_lens.errors import one_of
from codi_lens.patching.plans import Label
from codi_lens.patching.result import IN_SWEEP, Cell, Sweep
from codi_lens.patching.similarity import SIMILARITIES
from codi_lens.patching.structural_zeros import is_structural_zero

EFFECT_METRICS = (
    "recovery",
    "kl_divergence",
    "l2_difference",
    "prediction_change_rate",
    "answer_logit_diff_change",
    "flipped",
)
"""Metrics that are zero where a patch does nothing: cells can be ranked by them."""
ALL = "all"
"""The one column of a layer-wise sweep."""


def panels(sweep: Sweep) -> tuple[str, ...]:
    """Names of the maps of a sweep: its variants, or strategies."""
    return tuple(str(name) for name in next(iter(sweep.axes.values())))


def columns(sweep: Sweep) -> tuple[str, tuple[Label, ...]]:
    """What the columns are, and their labels."""
    if "position" in sweep.axes:
        return "latent position", sweep.axes["position"]
    if "iteration" in sweep.axes:
        return "iteration", sweep.axes["iteration"]
    return "positions", (ALL,)


def as_grid(
    values: Float[Tensor, "..."], sweep: Sweep, panel: str
) -> Float[Tensor, "layer column"]:
    """One map out of a tensor with the sweep's axes.

    Raises:
        UserError: the sweep has no such variant or strategy.
    """
    names = panels(sweep)
    grid = values[names.index(one_of(panel, names, next(iter(sweep.axes)), IN_SWEEP))]
    return grid if grid.dim() == 2 else grid[:, None]


def cell_index(sweep: Sweep, panel: str, row: int, column: int) -> Cell:
    """Indices along the sweep's axes of a map's cell."""
    index = (panels(sweep).index(panel), row, column)
    return index if len(sweep.axes) == 3 else index[:2]


def structural_zeros(sweep: Sweep, panel: str) -> Bool[Tensor, "layer column"]:
    """Cells of a map that are zero by construction."""
    if "variant" in sweep.axes:
        zeros = sweep.structural_zeros(panel)
        return zeros if zeros.dim() == 2 else zeros[:, None]
    steps = sweep.settings.positions
    patched = {
        "cumulative": [steps[: i + 1] for i in range(len(steps))],
        "parallel": [steps] * len(steps),
    }.get(panel, [(step,) for step in steps])
    return torch.tensor(
        [
            [
                is_structural_zero(
                    sweep.settings,
                    "regenerate",
                    layer,
                    group,
                    num_layers=sweep.num_layers,
                    empty_stem=sweep.empty_stem,
                )
                for group in patched
            ]
            for layer in sweep.settings.layers
        ]
    )


def threshold(sweep: Sweep, group: Aggregate, metric: str) -> float | None:
    """What the donor control reaches anywhere, for metrics that rank cells; else None."""
    return donor_threshold(sweep, group, metric) if metric in EFFECT_METRICS else None


def outlined(sweep: Sweep, group: Aggregate, metric: str, panel: str) -> list[tuple[int, ...]]:
    """(row, column) of the five cells that stand out in a map: the largest effects above the donor's.

    None of them for a metric that has no zero to stand out from.
    """
    if metric not in EFFECT_METRICS:
        return []
    values = as_grid(group.means[metric], sweep, panel)
    if metric == "answer_logit_diff_change" and sweep.settings.direction == "noise":
        values = -values  # away from the clean answer is what noising is after
    zeros = structural_zeros(sweep, panel)
    return top_cells(values, zeros, threshold=threshold(sweep, group, metric))


def pairs_behind(group: Aggregate, metric: str) -> int:
    """How many pairs a mean of this metric is over."""
    return group.n_recovery if metric == "recovery" else group.n


def metric_names(sweep: Sweep) -> list[str]:
    """Metrics of a sweep, those first that a reader asks for first."""
    first = ["recovery", "kl_divergence", "flipped", *SIMILARITIES]
    known = list(sweep.outcomes[0].metrics)
    return [n for n in first if n in known] + [n for n in known if n not in first]
