"""The table that a patching program prints when it is done."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codi_lens import Sweep


def table(sweep: "Sweep") -> str:
    """The cells with the largest recovery, and how many pairs stand behind them."""
    from codi_lens.analysis.aggregates import aggregate, competent, donor_threshold, top_cells

    group = aggregate(sweep)
    axes = [name for name in sweep.axes if name != "variant"]
    values, zeros = group.means["recovery"], None
    if "variant" in sweep.axes:
        values, zeros = values[0], sweep.structural_zeros()
    top = top_cells(values, values.isnan() if zeros is None else zeros)
    lines = [
        f"{group.n} pairs, both questions answered right in {int(competent(sweep).sum())}; "
        f"recovery defined for {group.n_recovery}",
        "",
        "".join(f"{name:>10}" for name in axes) + "  recovery   95% interval      KL  flipped",
    ]
    for cell in top:
        where = (0, *cell) if "variant" in sweep.axes else cell
        names = "".join(f"{sweep.axes[a][i]!s:>10}" for a, i in zip(axes, cell, strict=True))
        means = {name: float(v[where]) for name, v in group.means.items()}
        low, high = float(group.low["recovery"][where]), float(group.high["recovery"][where])
        lines.append(
            f"{names}  {means['recovery']:>8.3f}  {low:>6.3f} – {high:<6.3f}"
            f"{means['kl_divergence']:>7.3f}  {means['flipped']:>7.0%}"
        )
    threshold = donor_threshold(sweep, group)
    if threshold is not None:
        lines.append(f"largest effect of another pair's activations: {threshold:.3f}")
    return "\n".join(lines)
