"""Linear probes: what can be read off an activation, at every place and step.

A probe is a logistic regression (classes) or a ridge regression (numbers) on standardised activations, scored on questions
that it was not fitted on; questions of one group (the two sides of a pair) are never on both sides of that divide.

A probe that reads something well may have learned it by itself. So each has a *control task* (Hewitt & Liang, arXiv
1909.03368): every type of question (the value of its first operand) is given a label at random, drawn from the labels
there are, and the same probe learns that. *Selectivity* is how much better it reads the real label. What is decodable need not
be used: `measure_usage` exchanges the subspace that a probe reads.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from codi_lens.analysis.probes.fitting import (
    Array,
    Asked,
    Estimator,
    Kind,
    Split,
    control_labels,
    encoded,
    folds_of,
    groups_of,
    labels_for,
    one_each,
    splits_of,
    variants,
)
from codi_lens.data.answers import Answer
from codi_lens.errors import known_options, one_of, whole_number
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.interventions import InSubspace
from codi_lens.patching.means import activations
from codi_lens.patching.plan import SOURCE, vector_at
from codi_lens.patching.settings import THOUGHT, Label, Settings
from codi_lens.patching.sweep import make_settings

OWN = "own labels"
"""What labels of the user's are called."""
RANK = 1e-6
"""Directions of a probe's weights that are smaller than this share of the largest are rounding."""


@dataclass(frozen=True)
class Probes:
    """A probe at every place and step of a map."""

    label: str
    """What is read: a name of `analysis.labels`, or `OWN`."""
    kind: Kind
    settings: Settings
    questions: tuple[str, ...]
    classes: tuple[Answer, ...]
    """Logistic: the labels that there are, in order; () of numbers."""
    labels: Float[Tensor, " question"]
    """The number of each question's class; ridge: its number."""
    fold: Int[Tensor, " question"]
    """In which fold a question is predicted: by a probe fitted on all others."""
    predicted: Float[Tensor, "question row column"]
    """As `labels`, by probes that have not seen the question's group."""
    score: Float[Tensor, "row column"]
    """Accuracy; of ridge R² (1: exact; 0: no better than the mean), over all predictions."""
    control: Float[Tensor, "row column"]
    """The same on the control task."""
    baseline: float
    """The score of the most common label, or of the mean."""
    directions: Mapping[tuple[Label, Label], Float[Tensor, "output width"]]
    """(row, column) -> weights of the probe that is fitted on all questions, in the activation's own units: by how much
    each class's logit, or the number, grows with it."""

    @property
    def rows(self) -> tuple[Label, ...]:
        """Labels of the rows."""
        return self.settings.layers

    @property
    def columns(self) -> tuple[Label, ...]:
        """Labels of the columns: steps of the loop."""
        return self.settings.positions

    @property
    def n(self) -> int:
        """Number of questions."""
        return len(self.questions)

    @property
    def selectivity(self) -> Float[Tensor, "row column"]:
        """Score − control score. An R² below 0, which is worse than saying the mean, counts as 0."""
        return self.score - self.control.clamp(min=0)

    @property
    def correct(self) -> Bool[Tensor, "question row column"]:
        """Whether each prediction is right, of classes."""
        return self.predicted == self.labels[:, None, None]

    def direction(
        self, place: Label, step: Label, value: Answer | None = None
    ) -> Float[Tensor, " width"]:
        """The weights of a cell: of a class's logit, or of the number.

        Adding t · w / ‖w‖² to the activation adds t to what the probe reads there, whatever else that does.

        Args:
            place, step: the cell.
            value: which class.

        Raises:
            UserError: no such cell or class.
        """
        weights = self._weights(place, step)
        if not self.classes:
            return weights[0]
        return weights[self.classes.index(one_of(value, self.classes, "class"))]

    def basis(self, place: Label, step: Label) -> Float[Tensor, "width rank"]:
        """An orthonormal basis of the span of a cell's weights: all that the probe can see."""
        _, sizes, found = torch.linalg.svd(self._weights(place, step), full_matrices=False)
        return found[sizes > RANK * sizes.max()].T

    def intervention(self, place: Label, step: Label) -> InSubspace:
        """Exchanges what the probe sees, and nothing else: it then reads the source run's."""
        return InSubspace((SOURCE,), self.basis(place, step))

    def _weights(self, place: Label, step: Label) -> Float[Tensor, "output width"]:
        row = one_of(place, self.rows, "row", "of these probes")
        return self.directions[row, one_of(step, self.columns, "column", "of these probes")]


@known_options
def probe(
    codi: HookedCodi,
    asked: Asked,
    label: str | Sequence[Answer],
    *,
    kind: Kind = "logistic",
    places: Sequence[Label] | None = None,
    positions: Sequence[Label] | None = None,
    site: str = "resid_post",
    num_latents: int | None = None,
    folds: int = 5,
    penalty: float = 1.0,
    groups: Sequence[Hashable] | None = None,
    types: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Probes:
    """Fits and scores a linear probe at every place and step.

    Args:
        codi: the model.
        asked: pairs, of which both sides are asked, or questions. A question that several pairs share counts each time.
        label: "answer", "v1", "operand1" … (`analysis.labels`), or a label for every question (of pairs: clean, corrupted,
            clean …).
        kind: "logistic" reads classes, "ridge" numbers.
        places: rows, as `patch_positions(layers=…)` takes them; the thought that is fed and all layers if None.
        positions: latents, and "bot" and "eot"; all latents if None.
        site: as in `patch_positions`.
        num_latents: thoughts; the model's own number if None.
        folds: of the cross-validation.
        penalty: on the squared weights, of standardised activations: `alpha` of Ridge, 1 / `C` of LogisticRegression.
        groups: what may not be on both sides of a fold; None: pairs, and equal questions.
        types: of each question, for the control task; None: its first operand, or the question itself where that is not
            known (then the control is chance, and selectivity says no more than the score).
        seed: of folds and of the control task.

    Raises:
        UserError: labels that are not there or do not suit, fewer groups than folds, or a place of two activations.
    """
    how = Estimator(kind, penalty)
    known = variants(asked)
    classes, labels = encoded(labels_for(asked, known, label), kind)
    if types is None:
        types = [one.operands[0] if one.operands else one.question for one in known]
    task = control_labels(one_each(types, len(known), "types"), labels, seed)
    groups = one_each(groups_of(asked) if groups is None else groups, len(known), "groups")
    splits = splits_of(groups, whole_number(folds, "folds", at_least=2), seed)
    settings = make_settings(
        codi,
        layers=(THOUGHT, *range(codi.model.cfg.n_layers)) if places is None else places,
        positions=positions,
        num_latents=num_latents,
        site=site,
        seed=seed,
    )
    questions = tuple(one.question for one in known)
    inputs = _inputs(codi, questions, settings)
    predicted, score = _read(how, inputs, labels, splits, settings)
    return Probes(
        label=label if isinstance(label, str) else OWN,
        kind=kind,
        settings=settings,
        questions=questions,
        classes=classes,
        labels=torch.from_numpy(labels),
        fold=folds_of(splits),
        predicted=predicted,
        score=score,
        control=_read(how, inputs, task, splits, settings)[1],
        baseline=float(np.bincount(labels.astype(int)).max()) / len(labels) if classes else 0.0,
        directions={cell: how.weights(own, labels) for cell, own in inputs.items()},
    )


def _inputs(
    codi: HookedCodi, questions: Sequence[str], settings: Settings
) -> dict[tuple[Label, Label], Array]:
    """(row, column) -> activations [question, width], in float64.

    Raises:
        UserError: a row that is not one vector.
    """
    sites = {
        (row, column): vector_at(settings, row, column)
        for row in settings.layers
        for column in settings.positions
    }
    kept = activations(codi, questions, list(sites.values()), settings.num_latents)
    flat = {cell: kept[site].double().reshape(len(questions), -1) for cell, site in sites.items()}
    return {cell: own.cpu().numpy() for cell, own in flat.items()}


def _read(
    how: Estimator,
    inputs: Mapping[tuple[Label, Label], Array],
    labels: Array,
    splits: Sequence[Split],
    settings: Settings,
) -> tuple[Float[Tensor, "question row column"], Float[Tensor, "row column"]]:
    """Cross-validated predictions at every cell, and their scores."""
    predicted = [how.predicted(own, labels, splits) for own in inputs.values()]
    shape = len(settings.layers), len(settings.positions)
    scores = torch.tensor([how.score(labels, one) for one in predicted], dtype=torch.float64)
    return torch.from_numpy(np.stack(predicted, axis=1)).unflatten(1, shape), scores.view(shape)
