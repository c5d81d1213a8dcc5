"""Runs side by side: do their baselines agree, do laws that bind them hold, where do they part?

Checks are laws: what fails them is broken. Everything else is reported and not judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.aggregates import SIGNED_EFFECTS, Aggregate, aggregate, finite, interaction
from codi_lens.analysis.summary import top_entry
from codi_lens.errors import UserError, one_of
from codi_lens.patching.result import Sweep

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
            if "variant" in sweep.axes
        },
    )


def _by_experiment(runs: Mapping[str, Sweep]) -> dict[str, Sweep]:
    if len(runs) < 2:
        raise UserError(f"{len(runs)} run to compare; give two or more")
    found: dict[str, Sweep] = {}
    ids = [pair.pair_id for pair in next(iter(runs.values())).pairs]
    for name, sweep in runs.items():
        if sweep.experiment in found:
            raise UserError(f"{name} is a second run of {sweep.experiment}; give one of each")
        if [pair.pair_id for pair in sweep.pairs] != ids:
            raise UserError(f"{name} has other pairs than {next(iter(runs))}; nothing to compare")
        found[sweep.experiment] = sweep
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
    checks = []
    position, layer = runs.get("position_patching"), runs.get("layer_patching")
    iterative = runs.get("iterative_patching")
    if iterative is not None:
        last = iterative.axes["iteration"][-1]

        def strategy(name: str, iteration: Any) -> Tensor:
            return iterative.values("logit_diff", strategy=name, iteration=iteration)

        parallel = strategy("parallel", last)
        cumulative = _largest(parallel, strategy("cumulative", last))
        checks.append(_check("parallel = last cumulative iteration", cumulative, allowed))
        for name in ("cumulative", "chained"):
            first = iterative.axes["iteration"][0]
            start = _largest(strategy("single", first), strategy(name, first))
            checks.append(_check(f"first {name} iteration = single", start, allowed))
        if layer is not None and _same_cells(iterative, layer):
            together = layer.values("logit_diff", variant=layer.axes["variant"][0])
            checks.append(
                _check("parallel = layer-wise run", _largest(parallel, together), allowed)
            )
        if position is not None and _same_cells(iterative, position):
            cells = position.values("logit_diff", variant=position.axes["variant"][0])
            single = iterative.values("logit_diff", strategy="single")
            checks.append(_check("single = position-wise cells", _largest(single, cells), allowed))
    return checks


def _same_cells(one: Sweep, other: Sweep) -> bool:
    """Whether two sweeps patch the same places in the same way, so that laws bind them."""
    names = ("layers", "positions", "site", "direction", "answer_start", "num_latents")
    same = all(getattr(one.settings, n) == getattr(other.settings, n) for n in names)
    return same and other.settings.variants[0] == "regenerate"


def _profiles(
    runs: Mapping[str, Sweep], groups: Mapping[str, Aggregate]
) -> dict[str, dict[str, float]]:
    """Recovery per layer: layer-wise as it is, position-wise its largest cell, iterative at the end."""
    profiles = {}
    for name, sweep in runs.items():
        means = groups[name].means[METRIC]
        labels = [str(layer) for layer in sweep.settings.layers]
        for line, values in _lines(sweep, means).items():
            profiles[line] = dict(zip(labels, values.tolist(), strict=True))
    return profiles


def _lines(sweep: Sweep, means: Float[Tensor, "..."]) -> dict[str, Float[Tensor, " layer"]]:
    """What a sweep has to compare layer by layer, by what it is."""
    if sweep.experiment == "layer_patching":
        return {"layer-wise, all positions": means[0]}
    if sweep.experiment == "position_patching":
        largest = means[0].nan_to_num(-torch.inf).amax(-1)
        return {"position-wise, largest cell": largest.masked_fill(largest.isinf(), torch.nan)}
    return {
        f"iterative {strategy}, last iteration": means[i, :, -1]
        for i, strategy in enumerate(sweep.axes["strategy"])
    }


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
    if not {"position_patching", "layer_patching"} <= set(runs):
        return {}
    position, layer = runs["position_patching"], runs["layer_patching"]
    if position.settings.positions != layer.settings.positions:
        return {}
    singles = groups["position_patching"].means[METRIC][0].sum(-1)
    together = groups["layer_patching"].means[METRIC][0]
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
        for metric in SIGNED_EFFECTS:
            left = interaction(sweep, groups[name], metric)
            if left is None:
                continue
            means = groups[name].means[metric]
            variants = sweep.axes["variant"]
            parts = {
                label: means[variants.index(variant)]
                for label, variant in (
                    ("total", "regenerate"),
                    ("direct", "freeze"),
                    ("indirect", "thoughts"),
                )
            }
            parts["interaction"] = left
            found[f"{name} {metric}"] = {
                label: finite(float(values.abs().nanmean())) for label, values in parts.items()
            }
    return found
