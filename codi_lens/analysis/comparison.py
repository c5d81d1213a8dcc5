"""Runs side by side: do their baselines agree, do laws that bind them hold, where do they part?

Checks are laws: what fails them is broken. Everything else is reported and not judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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
from codi_lens.patching.settings import Label

TOLERANCE = {"float64": 1e-8, "float32": 5e-3, "bfloat16": 0.5, "float16": 0.1}
"""Largest difference of a logit-valued metric that rounding explains, per dtype of the runs."""
METRIC = "recovery"
LEAST = 5
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
    """Compares records of the same model and pairs.

    Args:
        runs: name -> sweep; any of the three experiments, each at most once.
        dtypes: name -> dtype that the run was made in.

    Raises:
        UserError: fewer than two runs, an experiment twice, different pairs, or an unknown dtype.
    """
    by_experiment = _by_experiment(runs)
    allowed = max(TOLERANCE[one_of(dtype, TOLERANCE, "dtype")] for dtype in dtypes.values())
    groups = {name: aggregate(sweep) for name, sweep in by_experiment.items()}
    checks = [_baselines(by_experiment, allowed), *_laws(by_experiment, allowed)]
    profiles = _profiles(by_experiment, groups)
    return Comparison(
        tuple(checks),
        {name: {k: finite(v) for k, v in profile.items()} for name, profile in profiles.items()},
        _correlations(profiles),
        _additivity(by_experiment, groups),
        _effects(by_experiment, groups),
        {
            name: top_entry(groups[name], sweep, METRIC)
            for name, sweep in by_experiment.items()
            if sweep.experiment.has_controls
        },
    )


def _by_experiment(runs: Mapping[str, Sweep]) -> dict[str, Sweep]:
    if len(runs) < 2:
        raise UserError(f"{len(runs)} run to compare; give two or more")
    found: dict[str, Sweep] = {}
    ids = [pair.pair_id for pair in next(iter(runs.values())).pairs]
    for name, sweep in runs.items():
        experiment = sweep.experiment.name
        if experiment in found:
            raise UserError(f"{name} is a second run of {experiment}; give one of each")
        if [pair.pair_id for pair in sweep.pairs] != ids:
            raise UserError(f"{name} has other pairs than {next(iter(runs))}; nothing to compare")
        found[experiment] = sweep
    return found


def _check(name: str, difference: float, allowed: float) -> Check:
    passed = difference <= allowed  # NaN, where nothing could be compared, does not pass
    return Check(name, passed, f"largest difference {difference:.3g}, allowed {allowed:.3g}")


def _largest(a: Tensor, b: Tensor) -> float:
    """The largest difference; infinite where one is defined and the other is not."""
    if a.shape != b.shape or not torch.equal(a.isnan(), b.isnan()):
        return float("inf")
    return float((a - b).abs().nan_to_num().max()) if a.numel() else 0.0


def _baselines(runs: Mapping[str, Sweep], allowed: float) -> Check:
    """The unpatched runs are the same runs in every experiment."""
    first, *others = runs.values()

    def baseline(sweep: Sweep) -> Tensor:
        return torch.tensor(
            [
                [run.metrics[name] for name in sorted(run.metrics)]
                for outcome in sweep.outcomes
                for run in (outcome.base, outcome.source)
            ],
            dtype=torch.float64,
        )

    differences = [_largest(baseline(first), baseline(sweep)) for sweep in others]
    return _check("baselines agree across runs", max(differences), allowed)


def _laws(runs: Mapping[str, Sweep], allowed: float) -> list[Check]:
    """What must be equal by definition."""
    iterative = runs.get(ITERATIVE.name)
    if iterative is None:
        return []
    first, last = iterative.axes["column"][0], iterative.axes["column"][-1]

    def strategy(name: str, iteration: Label) -> Tensor:
        return iterative.values("logit_diff", effect=name, column=iteration)

    parallel = strategy(PARALLEL, last)
    cumulative = _largest(parallel, strategy(CUMULATIVE, last))
    checks = [_check("parallel = last cumulative iteration", cumulative, allowed)]
    for name in (CUMULATIVE, CHAINED):
        start = _largest(strategy(SINGLE, first), strategy(name, first))
        checks.append(_check(f"first {name} iteration = single", start, allowed))
    layer, position = runs.get(LAYERS.name), runs.get(POSITIONS.name)
    if layer is not None and _same_cells(iterative, layer):
        together = layer.metrics["logit_diff"][..., 0]
        checks.append(_check("parallel = layer-wise run", _largest(parallel, together), allowed))
    if position is not None and _same_cells(iterative, position):
        single = iterative.values("logit_diff", effect=SINGLE)
        cells = _largest(single, position.metrics["logit_diff"])
        checks.append(_check("single = position-wise cells", cells, allowed))
    return checks


def _same_cells(one: Sweep, other: Sweep) -> bool:
    """Whether two sweeps patch the same places in the same way, so that laws bind them."""
    what = ("site", "direction", "answer_start", "num_latents", "intervention", "strength")
    names = ("layers", "positions", *what)
    same = all(getattr(one.settings, n) == getattr(other.settings, n) for n in names)
    return same and other.settings.effects[0] == TOTAL


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
            profiles[f"{sweep.experiment.title}, {line}"] = dict(zip(labels, values, strict=True))
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
    if position.settings.positions != layer.settings.positions:
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
