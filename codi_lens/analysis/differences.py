"""What one run has over another, cell by cell and pair by pair: models, seeds, sites, effects, sets of pairs.

Runs of the same pairs are compared pair by pair: the bootstrap draws the same pairs of both (Efron 1979), so that what
pairs have in common is not taken for chance. Runs without a pair in common are drawn from independently.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from jaxtyping import Bool, Float
from torch import Tensor

from codi_lens.analysis.aggregates import competent, groups, interval, resampled, resamples, sums
from codi_lens.analysis.comparison import RankCorrelation, rank_correlation
from codi_lens.analysis.grids import what_cells_are
from codi_lens.choices import CONTROLS
from codi_lens.errors import UserError, one_of
from codi_lens.patching.result import Sweep
from codi_lens.patching.settings import Label

T = TypeVar("T")
MOST = 8
"""Labels that are listed in a message."""
Indices = tuple[list[int], list[int], list[int]]
"""Of effects, rows and columns."""


@dataclass(frozen=True)
class Shared:
    """What two runs have in common."""

    first: Sweep
    second: Sweep
    """Both with the pairs that they share, in the same order; with all of their own if they share none."""
    paired: bool
    effects: tuple[tuple[Label, Label], ...]
    """In the first run and in the second."""
    rows: tuple[Label, ...]
    columns: tuple[Label, ...]
    apart: tuple[str, ...]
    """What one of them has alone and is left out, in words."""

    @property
    def effect_names(self) -> tuple[str, ...]:
        """The effects that are compared: "total", or "direct − total" where they are two."""
        return tuple(" − ".join(dict.fromkeys((str(b), str(a)))) for a, b in self.effects)


@dataclass(frozen=True)
class Difference:
    """A metric in the second run − the same in the first, over the cells that both have."""

    shared: Shared
    metric: str
    mean: Float[Tensor, "effect row column"]
    low: Float[Tensor, "effect row column"]
    high: Float[Tensor, "effect row column"]
    """Bounds of the 95% bootstrap interval of `mean`."""
    zeros: Bool[Tensor, "effect row column"]
    """Cells that are zero by construction in both."""
    ranks: tuple[RankCorrelation, ...]
    """Of the cells of both runs, by effect; those that are zero by construction in one are left out."""
    n: tuple[int, int]
    """Pairs of each."""


@dataclass(frozen=True)
class Moved:
    """Pairs, by their ids in the first run, for which something holds in one run alone."""

    gained: tuple[int, ...]
    """In the second."""
    lost: tuple[int, ...]
    """In the first."""


def shared(first: Sweep, second: Sweep, names: tuple[str, str] = ("first", "second")) -> Shared:
    """What can be compared; `names` are those of the runs, for what is said of them.

    Effects are those of the same name, controls left out; if there are none, the main one of each.

    Raises:
        UserError: the cells are of different kinds, or the runs have none in common, or one has no pairs.
    """
    kinds, rows, columns = zip(*(what_cells_are(sweep) for sweep in (first, second)), strict=True)
    if kinds[0] != kinds[1]:
        raise UserError(
            f"cells are of different kinds, {kinds[0]} in {names[0]} and {kinds[1]} in {names[1]}"
        )
    both = [_common(*labels) for labels in (rows, columns)]
    for what, labels, common in zip(("row", "column"), (rows, columns), both, strict=True):
        if not common:
            own = "; ".join(f"{n}: {_listed(la)}" for n, la in zip(names, labels, strict=True))
            raise UserError(f"{names[0]} and {names[1]} have no {what} in common ({own})")
    effects = [
        tuple(e for e in sweep.axes["effect"] if e not in CONTROLS) for sweep in (first, second)
    ]
    same = [(effect, effect) for effect in _common(*effects)] or [(effects[0][0], effects[1][0])]
    pairs = [_by_content(sweep) for sweep in (first, second)]
    common = _common(tuple(pairs[0]), tuple(pairs[1]))
    chosen = [
        replace(sweep, outcomes=tuple(sweep.outcomes[own[key]] for key in common or own))
        for sweep, own in zip((first, second), pairs, strict=True)
    ]
    apart = [*_alone("rows", rows, names), *_alone("columns", columns, names)]
    apart += (
        [
            f"pairs in {name} alone: {len(own) - len(common)}"
            for name, own in zip(names, pairs, strict=True)
            if len(own) > len(common)
        ]
        if common
        else ["no pair in common: each run is of its own pairs, drawn independently"]
    )
    return Shared(chosen[0], chosen[1], bool(common), tuple(same), both[0], both[1], tuple(apart))


def difference(between: Shared, metric: str = "recovery") -> Difference:
    """The second run's mean of a metric − the first's, with a bootstrap interval of the first run's seed.

    Of recovery, the pairs are those that it is defined for in both runs.

    Raises:
        UserError: a metric that one of the runs lacks.
    """
    runs = (between.first, between.second)
    for sweep in runs:
        one_of(metric, sweep.outcomes[0].metrics, "metric", f"in a run of {sweep.experiment.name}")
    chosen = [groups(sweep)["all"] for sweep in runs]
    if metric == "recovery":
        chosen = [own & sweep.has_recovery for own, sweep in zip(chosen, runs, strict=True)]
    if between.paired:
        chosen = [chosen[0] & chosen[1]] * 2
    n = (int(chosen[0].sum()), int(chosen[1].sum()))
    seed = between.first.settings.seed
    seeds = (seed, seed if between.paired else seed + 1)
    one, other = (
        _at(resampled(*sums(sweep, metric, own), resamples(count, start)), where)
        for sweep, own, count, start, where in zip(
            runs, chosen, n, seeds, _indices(between), strict=True
        )
    )
    low, high = interval((other - one)[1:])
    zeros = [_at(s.zeros, where) for s, where in zip(runs, _indices(between), strict=True)]
    ranks = tuple(
        rank_correlation(one[0, i][free], other[0, i][free])
        for i, free in enumerate(~(zeros[0] | zeros[1]))
    )
    mean = other[0] - one[0]
    return Difference(between, metric, mean, low, high, zeros[0] & zeros[1], ranks, n)


def moved(between: Shared) -> dict[str, Moved]:
    """Pairs that one run answers right, or recovers, and the other does not; nothing without shared pairs.

    Right are both questions of a pair; recovered is one whose answer is flipped to the source's by some cell of the
    first effect that is compared, among the cells that both runs have.
    """
    if not between.paired:
        return {}
    runs = (between.first, between.second)

    def compared(holds: Callable[[Sweep, Indices], Bool[Tensor, " pair"]]) -> Moved:
        one, other = (holds(s, at) for s, at in zip(runs, _indices(between), strict=True))
        ids = [pair.pair_id for pair in between.first.pairs]
        gained, lost = (other & ~one).nonzero().flatten(), (one & ~other).nonzero().flatten()
        return Moved(*(tuple(ids[i] for i in found.tolist()) for found in (gained, lost)))

    return {
        "answered right": compared(lambda sweep, _: competent(sweep)),
        "recovered": compared(
            lambda sweep, at: (_at(sweep.values("flipped"), at)[:, 0] > 0).flatten(1).any(1)
        ),
    }


def _at(values: Tensor, where: Indices) -> Tensor:
    """The cells that are compared, of [..., effect, row, column]."""
    effects, rows, columns = where
    return values[..., effects, :, :][..., rows, :][..., columns]


def _indices(between: Shared) -> tuple[Indices, Indices]:
    """Where the cells that are compared stand in each of the runs."""
    first, second = (
        (
            [sweep.axes["effect"].index(pair[i]) for pair in between.effects],
            [what_cells_are(sweep)[1].index(row) for row in between.rows],
            [what_cells_are(sweep)[2].index(column) for column in between.columns],
        )
        for i, sweep in enumerate((between.first, between.second))
    )
    return first, second


def _by_content(sweep: Sweep) -> dict[tuple[object, ...], int]:
    """What is asked in each pair, and answered -> its index: the same in another set is the same pair, whatever its id."""
    if not sweep.outcomes:
        raise UserError("a run has no pairs; there is nothing to compare")
    sides = [(pair.clean, pair.corrupted) for pair in sweep.pairs]
    return {tuple((s.question, s.answer) for s in both): i for i, both in enumerate(sides)}


def _common(one: Sequence[T], other: Collection[T]) -> tuple[T, ...]:
    known = set(other)
    return tuple(label for label in one if label in known)


def _alone(what: str, labels: Sequence[tuple[Label, ...]], names: tuple[str, str]) -> Iterator[str]:
    """Labels that only one of the runs has, in words."""
    for name, own, other in zip(names, labels, labels[::-1], strict=True):
        if left := [label for label in own if label not in other]:
            yield f"{what} in {name} alone: {_listed(left)}"


def _listed(labels: Sequence[Label]) -> str:
    shown = ", ".join(map(str, labels[:MOST]))
    return f"{shown}, …" if len(labels) > MOST else shown
