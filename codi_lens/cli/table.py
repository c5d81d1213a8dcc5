"""The table that a patching program prints when it is done."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codi_lens import Sweep

TOP = 5
"""Cells to list."""
WIDE = 10
"""Of a column of labels."""


def table(sweep: "Sweep") -> str:
    """The cells that stand out, and how many pairs stand behind them."""
    from codi_lens.analysis.aggregates import aggregate, competent, donor_threshold, top_cells

    group, by = aggregate(sweep), sweep.experiment.shows[0]
    # Where the other effects are controls and parts of the first, the cells of the first are listed.
    first_alone = sweep.experiment.has_controls
    names = [*([] if first_alone else ["effect"]), *sweep.experiment.cell_names]
    effects = range(1 if first_alone else len(sweep.axes["effect"]))
    cells = [
        (float(group.means[by][effect][cell]), (effect, *cell))
        for effect in effects
        for cell in top_cells(group.means[by][effect], sweep.zeros[effect], count=TOP)
    ]
    lines = [
        f"{group.n} pairs, both questions answered right in {int(competent(sweep).sum())}; "
        f"recovery defined for {group.n_recovery}",
        "",
        "".join(f"{name:>{WIDE}}" for name in names)
        + f"  {by[:22]}   95% interval      KL  flipped",
    ]
    for _, (effect, *cell) in sorted(cells, key=lambda one: (-one[0], one[1]))[:TOP]:
        where = (effect, *cell)
        labels = [known[i] for known, i in zip(sweep.axes.values(), where, strict=True)]
        shown = labels[1:] if first_alone else labels
        means = {name: float(v[where]) for name, v in group.means.items()}
        low, high = float(group.low[by][where]), float(group.high[by][where])
        named = "".join(f"{label!s:>{WIDE}}" for label in shown[: len(names)])
        kl, flipped = shortly(means["kl_divergence"], ".3f"), shortly(means["flipped"], ".0%")
        lines.append(
            f"{named}  {means[by]:>{len(by[:22])}.3f}  {low:>6.3f} – {high:<6.3f}{kl:>7}  {flipped:>7}"
        )
    threshold = donor_threshold(sweep, group, by)
    if threshold is not None:
        lines.append(f"largest effect of another pair's activations: {threshold:.3f}")
    return "\n".join(lines)


def shortly(value: float, form: str) -> str:
    """A number, or nothing where there is none: some cells are of thoughts, and not of the answer."""
    return "" if value != value else format(value, form)
