"""`aggregate_statistics.json`: a sweep's maps over pairs, per group of pairs."""

from typing import Any

from torch import Tensor

from codi_lens.analysis.aggregates import (
    Aggregate,
    aggregate,
    as_mapping,
    donor_threshold,
    finite,
    groups,
    interaction,
    top_cells,
)
from codi_lens.patching.result import Sweep


def aggregate_entry(sweep: Sweep) -> dict[str, Any]:
    """All pairs at the top, in the first study's schema, then each group of pairs in full."""
    entries = {
        name: group_entry(aggregate(sweep, chosen), sweep)
        for name, chosen in groups(sweep).items()
        if chosen.any()
    }
    whole = next(iter(entries.values()))
    main = next(iter(sweep.axes["effect"]))
    top: dict[str, Any] = {
        key: whole["means"][metric][main] for key, metric in sweep.experiment.means_keys.items()
    }
    top |= {key: whole[key] for key in ("top_5_critical", "top_5_by_recovery") if key in whole}
    return top | {"axes": {k: list(v) for k, v in sweep.axes.items()}, "groups": entries}


def group_entry(group: Aggregate, sweep: Sweep) -> dict[str, Any]:
    """One group: n, means with intervals [metric → effect → row → column], top cells, threshold, interaction."""
    depth = 1 + len(sweep.experiment.cell_names)  # a single column is no level of its own
    axes = tuple(sweep.axes.values())[:depth]

    def nested(tensor: Tensor) -> Any:
        return as_mapping(tensor.reshape(tensor.shape[:depth]), *axes)

    def mapped(values: dict[str, Tensor]) -> dict[str, Any]:
        return {name: nested(tensor) for name, tensor in values.items()}

    entry: dict[str, Any] = {
        "n": group.n,
        "n_recovery": group.n_recovery,
        "means": mapped(group.means),
        "interval_low": mapped(group.low),
        "interval_high": mapped(group.high),
        "recovery_median": nested(group.recovery_median),
    }
    if sweep.experiment.has_controls:
        entry["donor_threshold"] = donor_threshold(sweep, group)
        for metric in group.means:
            left = interaction(sweep, group, metric)
            if left is not None:
                shape = left.shape[: depth - 1]
                entry[f"interaction_{metric}"] = as_mapping(left.reshape(shape), *axes[1:])
        entry["top_5_critical"] = top_entry(group, sweep, "kl_divergence")
        entry["top_5_by_recovery"] = top_entry(group, sweep, "recovery")
    return entry


def top_entry(group: Aggregate, sweep: Sweep, by: str) -> list[dict[str, Any]]:
    """The five cells with the largest mean of a metric, main effect, structural zeros left out."""
    labels = (sweep.axes["row"], sweep.axes["column"])
    cells = []
    for cell in top_cells(group.means[by][0], sweep.structural_zeros()):
        entry: dict[str, Any] = {
            name: labels[axis][cell[axis]] for axis, name in enumerate(sweep.experiment.cell_names)
        }
        for key, metric in (
            ("kl_div", "kl_divergence"),
            ("ans_diff", "answer_logit_diff"),
            ("recovery", "recovery"),
        ):
            entry[key] = finite(float(group.means[metric][0][cell]))
        cells.append(entry)
    return cells
