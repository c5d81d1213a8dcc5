"""Runs side by side: do their baselines agree, do laws that bind them hold, where do they part?

Checks are laws: what fails them is broken. They bind runs of one model, of the same pairs and settings; runs that
differ in those are compared without. Everything else is reported and not judged; `analysis.differences` goes on from
there, cell by cell.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.aggregates import Aggregate, aggregate, finite, interaction
from codi_lens.analysis.summary import top_entry
from codi_lens.errors import UserError, one_of
from codi_lens.patching.effects import DIRECT, INDIRECT, TOTAL
from codi_lens.patching.experiments import ITERATIVE, LAYERS, POSITIONS
from codi_lens.patching.experiments.iterative import CHAINED, CUMULATIVE, PARALLEL, SINGLE
from codi_lens.patching.result import Sweep

TOLERANCE = {"float64": 1e-8, "float32": 5e-3, "bfloat16": 0.5, "float16": 0.1}
"""Largest difference of a logit-valued metric that rounding explains, per dtype of the runs."""
METRIC = "recovery"
LEAST = 10
"""Cells below which a rank correlation says nothing."""


@dataclass(frozen=True)
class Check:
    """A law, and by how much it was missed: the largest difference and what was allowed."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ, and the number of cells that it is over."""

    rho: float | None
    """None for fewer than `LEAST` cells, or where all are alike: there is nothing to rank."""
    n: int


@dataclass(frozen=True)
class Comparison:
    """What `compare` found, ready for a table and for JSON."""

    checks: tuple[Check, ...]
    profiles: dict[str, dict[str, float | None]]
    """Per-layer recovery of each experiment, by what is taken of it: recovery is the mean over pairs."""
    rank_correlation: dict[str, RankCorrelation]
    """Spearman's ρ between profiles over layers, by the names of both."""
    additivity: dict[str, float | None]
    """Per layer: Σ over single positions of recovery / recovery of all positions together."""
    effects: dict[str, dict[str, float | None]]
    """Total, direct, indirect effect and interaction: means over all cells of |effect|."""
    top: dict[str, list[dict[str, Any]]]

    @property
    def failed(self) -> list[Check]:
        """Checks that did not pass."""
        return [check for check in self.checks if not check.passed]


def compare(runs: Mapping[str, Sweep], dtypes: Mapping[str, str]) -> Comparison:
    """Compares any runs; what is found is named after experiments, or after runs where two are of the same.

    Args:
        runs: name -> sweep.
        dtypes: name -> dtype that the run was made in.

    Raises:
        UserError: fewer than two runs, or an unknown dtype.
    """
    if len(runs) < 2:
        raise UserError(f"{len(runs)} run to compare; give two or more")
    allowed = max(TOLERANCE[one_of(dtype, TOLERANCE, "dtype")] for dtype in dtypes.values())
    labelled = named(runs)
    groups = {name: aggregate(sweep) for name, sweep in labelled.items()}
    profiles = _profiles(labelled, groups)
    return Comparison(
        (*_baselines(labelled, allowed), *_laws(labelled, allowed)),
        {name: {k: finite(v) for k, v in profile.items()} for name, profile in profiles.items()},
        _correlations(profiles),
        _additivity(labelled, groups),
        _effects(labelled, groups),
        {
            name: top_entry(groups[name], sweep, METRIC)
            for name, sweep in labelled.items()
            if sweep.experiment.has_controls
        },
    )


def named(runs: Mapping[str, Sweep]) -> dict[str, Sweep]:
    """The runs by experiment; those of an experiment that several are of by their own names."""
    counts = Counter(sweep.experiment.name for sweep in runs.values())
    return {
        name if counts[sweep.experiment.name] > 1 else sweep.experiment.name: sweep
        for name, sweep in runs.items()
    }


def _check(name: str, difference: float, allowed: float) -> Check:
    passed = difference <= allowed  # NaN, where nothing could be compared, does not pass
    return Check(name, passed, f"largest difference {difference:.3g}, allowed {allowed:.3g}")


def _largest(a: Tensor, b: Tensor) -> float:
    """The largest difference; infinite where one is defined and the other is not."""
    if a.shape != b.shape or not torch.equal(a.isnan(), b.isnan()):
        return float("inf")
    return float((a - b).abs().nan_to_num().max()) if a.numel() else 0.0


def _baselines(runs: Mapping[str, Sweep], allowed: float) -> list[Check]:
    """The unpatched runs are the same runs wherever they are of one model, with the same pairs and settings."""

    def baseline(sweep: Sweep) -> Tensor:
        return torch.tensor(
            [
                [run.metrics[name] for name in sorted(run.metrics)]
                for outcome in sweep.outcomes
                for run in (outcome.base, outcome.source)
            ],
            dtype=torch.float64,
        )

    differences = [
        _largest(baseline(one), baseline(other))
        for one, other in combinations(runs.values(), 2)
        if _same_runs(one, other)
    ]
    if not differences:
        return []
    return [_check("baselines agree across runs", max(differences), allowed)]


def _laws(runs: Mapping[str, Sweep], allowed: float) -> list[Check]:
    """What must be equal by definition."""
    checks = []

    def check(law: str, one: Tensor, other: Tensor, *names: str) -> None:
        # A run is named where there are several of its experiment.
        told = [name for name in names if name != runs[name].experiment.name]
        title = f"{law} ({', '.join(told)})" if told else law
        checks.append(_check(title, _largest(one, other), allowed))

    for name, sweep in runs.items():
        if sweep.experiment is not ITERATIVE:
            continue
        at = partial(sweep.values, "logit_diff")
        first, last = sweep.axes["column"][0], sweep.axes["column"][-1]
        parallel, single = at(effect=PARALLEL, column=last), at(effect=SINGLE)
        end = at(effect=CUMULATIVE, column=last)
        check("parallel = last cumulative iteration", parallel, end, name)
        for strategy in (CUMULATIVE, CHAINED):
            start = at(effect=strategy, column=first)
            check(f"first {strategy} iteration = single", single[..., 0], start, name)
        for other, run in runs.items():
            if run.experiment is LAYERS and _same_cells(sweep, run):
                together = run.metrics["logit_diff"][..., 0]
                check("parallel = layer-wise run", parallel, together, name, other)
            if run.experiment is POSITIONS and _same_cells(sweep, run):
                cells = run.metrics["logit_diff"]
                check("single = position-wise cells", single, cells, name, other)
    return checks


def _same(one: Sweep, other: Sweep, settings: Sequence[str]) -> bool:
    """Whether two sweeps are of one model and the same pairs, and agree in some settings."""
    equal = all(getattr(one.settings, name) == getattr(other.settings, name) for name in settings)
    return equal and one.model_digest == other.model_digest and one.pairs == other.pairs


def _same_runs(one: Sweep, other: Sweep) -> bool:
    """Whether the unpatched runs of two sweeps are the same."""
    return _same(one, other, ("direction", "answer_start", "num_latents", "min_gap"))


def _same_cells(one: Sweep, other: Sweep) -> bool:
    """Whether two sweeps patch the same places in the same way, so that laws bind them."""
    what = ("site", "direction", "answer_start", "num_latents", "intervention", "strength")
    return _same(one, other, ("layers", "positions", *what)) and other.settings.effects[0] == TOTAL


def _profiles(
    runs: Mapping[str, Sweep], groups: Mapping[str, Aggregate]
) -> dict[str, dict[str, float]]:
    """Recovery per layer: layer-wise as it is, position-wise its largest cell, iterative at the end."""
    profiles = {}
    for name, sweep in runs.items():
        means = groups[name].means[METRIC]
        labels = [str(row) for row in sweep.axes["row"]]
        for line, cells in sweep.experiment.lines(means, sweep.axes).items():
            values = [float(means[cell]) for cell in cells]
            title = sweep.experiment.title if name == sweep.experiment.name else name
            profiles[f"{title}, {line}"] = dict(zip(labels, values, strict=True))
    return profiles


def _correlations(profiles: Mapping[str, Mapping[str, float]]) -> dict[str, RankCorrelation]:
    names = list(profiles)
    found = {}
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            shared = [layer for layer in profiles[one] if layer in profiles[other]]
            a, b = (
                torch.tensor([profiles[n][layer] for layer in shared], dtype=torch.float64)
                for n in (one, other)
            )
            found[f"{one} / {other}"] = rank_correlation(a, b)
    return found


def rank_correlation(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> RankCorrelation:
    """Spearman's ρ over the cells that both have a value for."""
    both = a.isfinite() & b.isfinite()
    n = int(both.sum())
    return RankCorrelation(finite(spearman(a[both], b[both])) if n >= LEAST else None, n)


def spearman(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float:
    """Spearman's rank correlation, ties at their mean rank; NaN below two values or without spread."""
    if len(a) < 2 or a.isnan().any() or b.isnan().any():
        return float("nan")
    ranks = []
    for values in (a, b):
        below = (values[None] < values[:, None]).sum(1)
        equal = (values[None] == values[:, None]).sum(1)
        ranks.append(below + (equal - 1) / 2)
    centred = [r - r.mean() for r in ranks]
    spread = (centred[0].pow(2).sum() * centred[1].pow(2).sum()).sqrt()
    return float((centred[0] * centred[1]).sum() / spread)


def _additivity(
    runs: Mapping[str, Sweep], groups: Mapping[str, Aggregate]
) -> dict[str, float | None]:
    """Σ of single positions over all positions together, per layer, where both were run."""
    position, layer = runs.get(POSITIONS.name), runs.get(LAYERS.name)
    if position is None or layer is None:
        return {}
    if not _same_runs(position, layer) or position.settings.positions != layer.settings.positions:
        return {}
    singles = groups[POSITIONS.name].means[METRIC][0].sum(-1)
    together = groups[LAYERS.name].means[METRIC][0, :, 0]
    shared = set(position.settings.layers) & set(layer.settings.layers)
    return {
        str(label): finite(
            float(
                singles[position.settings.layers.index(label)]
                / together[layer.settings.layers.index(label)]
            )
        )
        for label in position.settings.layers
        if label in shared
    }


def _effects(
    runs: Mapping[str, Sweep], groups: Mapping[str, Aggregate]
) -> dict[str, dict[str, float | None]]:
    """Mean |total|, |direct|, |indirect| and |interaction| over cells, where a run has all three."""
    found = {}
    for name, sweep in runs.items():
        for metric, means in groups[name].means.items():
            left = interaction(sweep, groups[name], metric)
            if left is None:
                continue
            effects = sweep.axes["effect"]
            parts = {effect: means[effects.index(effect)] for effect in (TOTAL, DIRECT, INDIRECT)}
            parts["interaction"] = left
            found[f"{name} {metric}"] = {
                label: finite(float(values.abs().nanmean())) for label, values in parts.items()
            }
    return found
