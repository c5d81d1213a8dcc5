"""Maps of how runs differ."""

from collections.abc import Mapping

import plotly.graph_objects as go

from codi_lens.analysis.differences import Difference
from codi_lens.analysis.grids import columns, rows
from codi_lens.errors import UserError
from codi_lens.patching.experiments import POSITIONS
from codi_lens.plots.panels import Panel, draw
from codi_lens.plots.style import label, name_of


def differences(found: Mapping[str, Difference]) -> go.Figure:
    """Maps of how runs differ (name -> difference), a panel for each and for each effect, on one scale around zero.

    Outlined are cells whose 95% interval leaves out zero, one cell at a time.

    Raises:
        UserError: no differences, or of several metrics.
    """
    metrics = {one.metric for one in found.values()}
    if len(metrics) != 1:
        raise UserError(
            f"maps of differences are of one metric; given {', '.join(metrics) or 'none'}"
        )
    (metric,) = metrics
    drawn = [
        _changed(one, i, name)
        for name, one in found.items()
        for i in range(len(one.shared.effects))
    ]
    counts = dict.fromkeys(f"{' and '.join(map(str, dict.fromkeys(d.n)))}" for d in found.values())
    independent = [name for name, one in found.items() if not one.shared.paired]
    how = (
        f"; no pair in common, drawn independently: {', '.join(independent)}" if independent else ""
    )
    first = next(iter(found.values())).shared.first
    across = POSITIONS.across if first.experiment.iterates else columns(first)[0]
    return draw(
        drawn,
        title=f"{drawn[0].title if len(drawn) == 1 else 'Differences between runs'}: {name_of(metric)}",
        subtitle=f"{label(metric)}; n = {', '.join(counts)} pairs{how}",
        colour="difference",
        signed=True,
        axes=(across, rows(first)[0]),
    )


def _changed(found: Difference, effect: int, name: str) -> Panel:
    """One effect of a difference."""
    between = found.shared
    mean, low, high = (table[effect] for table in (found.mean, found.low, found.high))
    outside = ((low > 0) | (high < 0)).nonzero().tolist()
    said = [
        [
            f"{row}, {column}<br>{mean[i, j]:.4f} [{low[i, j]:.4f}, {high[i, j]:.4f}]"
            for j, column in enumerate(between.columns)
        ]
        for i, row in enumerate(between.rows)
    ]
    return Panel(
        f"{name}: {between.effect_names[effect]}",
        mean,
        between.rows,
        between.columns,
        found.zeros[effect] & mean.isfinite(),
        [tuple(cell) for cell in outside],
        hover=said,
        meaning="the 95% interval leaves out zero",
    )
