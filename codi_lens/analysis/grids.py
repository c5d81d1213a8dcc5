"""A sweep as maps that can be looked at: one [row, column] grid per effect."""

from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.aggregates import Aggregate, donor_threshold, top_cells
from codi_lens.errors import one_of
from codi_lens.patching.metrics import METRICS
from codi_lens.patching.places import KV, ROW
from codi_lens.patching.result import IN_SWEEP, Sweep
from codi_lens.patching.settings import Label
from codi_lens.patching.similarity import SIMILARITIES


def panels(sweep: Sweep) -> tuple[str, ...]:
    """Names of the maps of a sweep: its effects."""
    return tuple(map(str, sweep.axes["effect"]))


def columns(sweep: Sweep) -> tuple[str, tuple[Label, ...]]:
    """What the columns are, and their labels."""
    return sweep.experiment.across, sweep.axes["column"]


def rows(sweep: Sweep) -> tuple[str, tuple[Label, ...]]:
    """What the rows are, and their labels."""
    return sweep.experiment.down(sweep.settings), sweep.axes["row"]


def what_cells_are(sweep: Sweep) -> tuple[str, tuple[Label, ...], tuple[Label, ...]]:
    """What a cell stands for, and the labels of rows and columns: where these agree, it is the same cell.

    An iteration is the cell of the position that it patches.
    """
    settings, (_, rows, columns) = sweep.settings, sweep.axes.values()
    if sweep.experiment.iterates:
        columns = settings.positions
    if (rows, columns) == (settings.layers, settings.positions):
        return "a place at a position", rows, columns
    return f"one of {sweep.experiment.name}", rows, columns


def row_text(sweep: Sweep, row: Label) -> str:
    """A row in words; of a key/value head, which heads it serves."""
    text = f"{rows(sweep)[0]} {row}"
    found = ROW.fullmatch(str(row))
    if found and found[2] == KV and sweep.served_heads > 1:
        first = int(found[3]) * sweep.served_heads
        text += f" (heads {first}–{first + sweep.served_heads - 1})"
    return text


def as_grid(
    values: Float[Tensor, "effect row column"], sweep: Sweep, panel: str
) -> Float[Tensor, "row column"]:
    """One map out of a tensor with the sweep's axes.

    Raises:
        UserError: the sweep has no such effect.
    """
    names = panels(sweep)
    return values[names.index(one_of(panel, names, "effect", IN_SWEEP))]


def ranking(sweep: Sweep) -> list[str]:
    """Metrics of a sweep that are zero where a patch does nothing: cells can be ranked by them."""
    return [name for name in metric_names(sweep) if METRICS[name].ranks]


def threshold(sweep: Sweep, group: Aggregate, metric: str) -> float | None:
    """What the donor control reaches anywhere, for metrics that rank cells; else None."""
    return donor_threshold(sweep, group, metric) if METRICS[metric].ranks else None


def outlined(sweep: Sweep, group: Aggregate, metric: str, panel: str) -> list[tuple[int, int]]:
    """(row, column) of the five cells that stand out in a map: the largest effects above the donor's.

    None of them for a metric that has no zero to stand out from.
    """
    if not METRICS[metric].ranks:
        return []
    values = as_grid(group.means[metric], sweep, panel)
    if metric == "answer_logit_diff_change" and sweep.settings.direction == "noise":
        values = -values  # away from the clean answer is what noising is after
    zeros = sweep.structural_zeros(panel)
    found = top_cells(values, zeros, threshold=threshold(sweep, group, metric))
    return [cell for cell in found if values[cell] > 0]


def pairs_behind(group: Aggregate, metric: str) -> int:
    """How many pairs a mean of this metric is over."""
    return group.n_recovery if metric == "recovery" else group.n


def metric_names(sweep: Sweep) -> list[str]:
    """Metrics of a sweep, those first that a reader asks for first."""
    first = [*sweep.experiment.shows, "recovery", "kl_divergence", "flipped", *SIMILARITIES]
    known = list(sweep.outcomes[0].metrics)
    return list(dict.fromkeys([n for n in first if n in known] + known))
