"""`aggregate_statistics.json`: a sweep's maps over pairs, per group of pairs."""

from typing import Any

from torch import Tensor

from codi_lens.analysis.aggregates import (
    SIGNED_EFFECTS,
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
        name: group_entry(aggregate(sweep, chosen, seed=sweep.settings.seed), sweep)
        for name, chosen in groups(sweep).items()
        if chosen.any()
    }
    whole = next(iter(entries.values()))
    top: dict[str, Any] = {
        key: whole[key] for key in ("top_5_critical", "top_5_by_recovery") if key in whole
    }
    main = whole["means"]
    if "variant" in sweep.axes:
        main = {name: next(iter(values.values())) for name, values in main.items()}
    if sweep.experiment == "position_patching":
        top = {
            "layer_position_kl_means": main["kl_divergence"],
            "layer_position_ans_diff_means": main["answer_logit_diff"],
            **top,
        }
    return top | {"axes": {k: list(v) for k, v in sweep.axes.items()}, "groups": entries}


def group_entry(group: Aggregate, sweep: Sweep) -> dict[str, Any]:
    """One group: n, means with intervals [metric → axes …], top cells, threshold, interaction."""
    axes = tuple(sweep.axes.values())

    def mapped(values: dict[str, Tensor]) -> dict[str, Any]:
        return {name: as_mapping(tensor, *axes) for name, tensor in values.items()}

    entry: dict[str, Any] = {
        "n": group.n,
        "n_recovery": group.n_recovery,
        "means": mapped(group.means),
        "interval_low": mapped(group.low),
        "interval_high": mapped(group.high),
        "recovery_median": as_mapping(group.recovery_median, *axes),
    }
    if "variant" in sweep.axes:
        entry["donor_threshold"] = donor_threshold(sweep, group)
        for metric in SIGNED_EFFECTS:
            left = interaction(sweep, group, metric)
            if left is not None:
                entry[f"interaction_{metric}"] = as_mapping(left, *axes[1:])
        entry["top_5_critical"] = top_entry(group, sweep, "kl_divergence")
        entry["top_5_by_recovery"] = top_entry(group, sweep, "recovery")
    return entry


def top_entry(group: Aggregate, sweep: Sweep, by: str) -> list[dict[str, Any]]:
    """The five cells with the largest mean of a metric, main variant, structural zeros left out."""
    axes = [(name, labels) for name, labels in sweep.axes.items() if name != "variant"]
    cells = []
    for cell in top_cells(group.means[by][0], sweep.structural_zeros()):
        entry: dict[str, Any] = {
            name: labels[i] for (name, labels), i in zip(axes, cell, strict=True)
        }
        for key, metric in (
            ("kl_div", "kl_divergence"),
            ("ans_diff", "answer_logit_diff"),
            ("recovery", "recovery"),
        ):
            entry[key] = finite(float(group.means[metric][0][cell]))
        cells.append(entry)
    return cells
