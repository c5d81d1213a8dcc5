"""How well a method's findings agree with the truth.

A *cell* is a result v_j and a thought k. Its truth: does the way from v_j to the answer lead through thought k? Its score: the
method's, averaged over the pairs in which v_j is the first result that differs. The figures:

* AUROC and average precision of |score| against the truth, over all cells. Not defined where no way leads through
  any thought (`bypass`), or through all.
* hits and false positives: the share of cells on the way, and off it, whose |score| is above the method's threshold.
* IIA: believe the method, and exchange for each v_j the first thought that reaches half of the largest score: how often
  does that set v_j? Not defined where the method claims nothing.
* routes, where one is planted: AUROC of |score| over (latent, route).
* CPR and CMD of circuits (`analysis.circuits`), which need no truth.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from codi_lens.errors import UserError, one_of
from codi_lens.organisms.scorecard.methods import METHODS, Findings, Method, first_change
from codi_lens.organisms.scorecard.organism import Organism


@dataclass(frozen=True)
class Score:
    """How well one method does on one organism; None where a figure is not defined."""

    method: str
    organism: str
    auroc: float | None
    average_precision: float | None
    hits: float | None
    false_positives: float | None
    iia: float | None
    routes_auroc: float | None
    cpr: float | None
    cmd: float | None
    runs: int | None
    """Of the loop, per pair."""
    seconds: float
    threshold: float
    cells: dict[str, list[float]]
    """Result -> the score of each thought."""
    way: dict[str, list[int]]
    """Result -> the thoughts that the truth names."""


def score(method: str | Method, organism: Organism) -> Score:
    """Scores a method on an organism.

    Args:
        method: the name of one of `METHODS`, or a function of a model and pairs that returns scores [pair, thought] or
            `Findings`. It is not shown the truth.
        organism: as `load_organism` gives it.

    Raises:
        UserError: no such method, or scores of another shape.
    """
    name = method if isinstance(method, str) else getattr(method, "__name__", repr(method))
    run = METHODS[one_of(method, METHODS, "method")] if isinstance(method, str) else method
    began = time.perf_counter()
    found = run(organism.codi, organism.pairs)
    seconds = time.perf_counter() - began
    findings = found if isinstance(found, Findings) else Findings(found)
    expected = len(organism.pairs), organism.truth.num_latents
    if tuple(findings.scores.shape) != expected:
        raise UserError(
            f"the method {name} gave scores {tuple(findings.scores.shape)}; expected [pair, thought], {expected}"
        )
    return judge(name, findings, organism, seconds)


def judge(name: str, findings: Findings, organism: Organism, seconds: float = 0.0) -> Score:
    """Compares findings with the truth about an organism."""
    truth = organism.truth
    cells = by_first_change(findings.scores, organism)
    values, labels = [], []
    for result, scores in cells.items():
        values += scores.abs().tolist()
        labels += [k in truth.way[result] for k in range(truth.num_latents)]
    claimed = [value > findings.threshold for value in values]
    ranked = len(set(labels)) > 1
    return Score(
        method=name,
        organism=organism.name,
        auroc=auroc(labels, values) if ranked else None,
        average_precision=average_precision(labels, values) if ranked else None,
        hits=_share(claimed, labels),
        false_positives=_share(claimed, [not label for label in labels]),
        iia=_iia(cells, findings.threshold, organism),
        routes_auroc=_routes(findings, organism),
        cpr=findings.cpr,
        cmd=findings.cmd,
        runs=findings.runs,
        seconds=seconds,
        threshold=findings.threshold,
        cells={result: scores.tolist() for result, scores in cells.items()},
        way={result: list(truth.way[result]) for result in cells},
    )


def auroc(labels: Sequence[bool], values: Sequence[float]) -> float:
    """Area under the ROC curve: how often a true cell has a larger value than another one; ties count half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, values))


def average_precision(labels: Sequence[bool], values: Sequence[float]) -> float:
    """Mean precision over the ranks of the true cells; equal values share a rank."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, values))


def by_first_change(scores: Tensor, organism: Organism) -> dict[str, Tensor]:
    """Result -> mean scores [thought] over the pairs in which it is the first that differs."""
    first = torch.tensor([first_change(pair) for pair in organism.pairs])
    names = organism.truth.variables
    return {
        names[i]: scores[first == i].double().nanmean(0).nan_to_num()
        for i in sorted(set(first.tolist()))
    }


def scorecard(
    organisms: Iterable[Organism],
    methods: Sequence[str] = (),
    progress: Callable[[Score], object] = lambda score: None,
) -> list[Score]:
    """Every method, or those named, on every organism."""
    scores = []
    for organism in organisms:
        for method in methods or METHODS:
            scores.append(score(method, organism))
            progress(scores[-1])
    return scores


def as_json(scores: Sequence[Score]) -> list[dict[str, object]]:
    """The table as plain data."""
    return [asdict(score) for score in scores]


def _share(claimed: Sequence[bool], among: Sequence[bool]) -> float | None:
    chosen = [claim for claim, there in zip(claimed, among, strict=True) if there]
    return sum(chosen) / len(chosen) if chosen else None


def _iia(cells: dict[str, Tensor], threshold: float, organism: Organism) -> float | None:
    """Mean over results of the interchange accuracy of the thought that the method would name."""
    rates = []
    for result, scores in cells.items():
        size = scores.abs()
        if float(size.max()) > threshold:
            thought = int((size >= size.max() / 2).nonzero()[0])
            rates.append(organism.iia[result][thought])
    return sum(rates) / len(rates) if rates else None


def _routes(findings: Findings, organism: Organism) -> float | None:
    """AUROC over routes out of the latents whose route is planted; of the pairs whose way leads through it."""
    truth = organism.truth
    values, labels = [], []
    for latent, planted in truth.routes.items():
        through = [
            latent in truth.way[truth.variables[first_change(pair)]] for pair in organism.pairs
        ]
        for route, scores in findings.routes.items():
            mean = scores[torch.tensor(through), latent].double().nanmean()
            values.append(abs(float(mean.nan_to_num())))
            labels.append(route == planted)
    return auroc(labels, values) if len(set(labels)) > 1 else None
