"""What a probe learns and how: labels, folds, the control task, and scikit-learn's estimators."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from codi_lens.analysis.labels import labels_of, variants_of
from codi_lens.data.answers import Answer
from codi_lens.data.pairs import Pair, Variant
from codi_lens.errors import UserError, one_of

T = TypeVar("T")
Kind = Literal["logistic", "ridge"]
KINDS = ("logistic", "ridge")
Asked: TypeAlias = Sequence[Pair] | Sequence[Variant] | Sequence[str]
Array = np.ndarray[Any, np.dtype[np.float64]]
Split = tuple[np.ndarray[Any, np.dtype[np.intp]], np.ndarray[Any, np.dtype[np.intp]]]
"""Questions that are fitted on, and those that are predicted."""


@dataclass(frozen=True)
class Estimator:
    """Which regression."""

    kind: Kind
    penalty: float

    def __post_init__(self) -> None:
        one_of(self.kind, KINDS, "kind")
        if not self.penalty > 0:
            raise UserError(f"penalty is {self.penalty!r}; it must be more than 0")

    def fitted(self, inputs: Array, labels: Array) -> Any:
        """scikit-learn's pipeline, fitted."""
        from sklearn.dummy import DummyClassifier
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if self.kind == "ridge":
            last = Ridge(alpha=self.penalty)
        elif len(set(labels.tolist())) == 1:  # as few questions may have, and a regression refuses
            last = DummyClassifier()
        else:
            last = LogisticRegression(C=1 / self.penalty, max_iter=1000)
        return make_pipeline(StandardScaler(), last).fit(inputs, labels)

    def predicted(self, inputs: Array, labels: Array, splits: Sequence[Split]) -> Array:
        """Every question's label, as a probe that was fitted on the other folds predicts it."""
        found = np.empty(len(labels))
        for learned, held_out in splits:
            fitted = self.fitted(inputs[learned], labels[learned])
            found[held_out] = fitted.predict(inputs[held_out])
        return found

    def score(self, labels: Array, predicted: Array) -> float:
        """Accuracy, or R²."""
        from sklearn.metrics import accuracy_score, r2_score

        measure = r2_score if self.kind == "ridge" else accuracy_score
        return float(measure(labels, predicted))

    def weights(self, inputs: Array, labels: Array) -> Float[Tensor, "output width"]:
        """How each class's logit, or the number, grows with the activation, fitted on all questions.

        Of two classes scikit-learn keeps the difference of the logits; each gets half of it.
        """
        scaler, last = (step for _, step in self.fitted(inputs, labels).steps)
        found = np.atleast_2d(last.coef_) / scaler.scale_
        if self.kind == "logistic" and len(found) == 1:
            found = np.concatenate([-found / 2, found / 2])
        return torch.from_numpy(found)


def variants(asked: Asked) -> list[Variant]:
    """The questions that are asked, of pairs those of both sides.

    Raises:
        UserError: none, or other things among them.
    """
    if not asked or isinstance(asked, str):
        raise UserError(f"the questions are {asked!r}; give a list of pairs or of questions")
    if all(isinstance(one, Pair) for one in asked):
        return variants_of([one for one in asked if isinstance(one, Pair)])
    found = [Variant(one, "") if isinstance(one, str) else one for one in asked]
    if others := [one for one in found if not isinstance(one, Variant)]:
        raise UserError(f"{others[0]!r} stands among questions; give pairs alone, or questions")
    return [one for one in found if isinstance(one, Variant)]


def labels_for(
    asked: Asked, known: Sequence[Variant], label: str | Sequence[Answer]
) -> list[Answer]:
    """The labels of this name, or those given, one for each question.

    Raises:
        UserError: a name, where texts alone are asked, which know no labels; or not as many labels.
    """
    if not isinstance(label, str):
        return one_each(label, len(known), "labels")
    if any(isinstance(one, str) for one in asked):
        raise UserError(f"a text has no label {label!r}; give a list of labels, one each")
    return labels_of(known, label)


def groups_of(asked: Asked) -> list[int]:
    """What belongs together, a number for every question: equal questions, both sides of a pair, and pairs that share one."""
    known = [one.question for one in variants(asked)]
    size = 2 if isinstance(asked[0], Pair) else 1
    group: dict[str, int] = {}
    for start in range(0, len(known), size):
        together = known[start : start + size]
        met = {group[question] for question in together if question in group}
        own = min(met, default=len(group))
        group |= {question: own for question, other in group.items() if other in met}
        group |= dict.fromkeys(together, own)
    return [group[question] for question in known]


def encoded(labels: Sequence[Answer], kind: Kind) -> tuple[tuple[Answer, ...], Array]:
    """The classes, and of each question the number of its own; of numbers no classes.

    Raises:
        UserError: texts, where numbers are needed, or only one label.
    """
    if kind == "ridge":
        if texts := [label for label in labels if isinstance(label, str)]:
            raise UserError(f"the label {texts[0]!r} is no number; give kind='logistic'")
        classes: tuple[Answer, ...] = ()
        numbers = [float(label) for label in labels]
    else:
        classes = tuple(sorted(set(labels), key=lambda label: (isinstance(label, str), label)))
        index = {label: number for number, label in enumerate(classes)}
        numbers = [float(index[label]) for label in labels]
    if len(set(numbers)) < 2:
        raise UserError(f"all {len(numbers)} questions have the label {labels[0]!r}; give others")
    return classes, np.array(numbers)


def control_labels(types: Sequence[Hashable], labels: Array, seed: int) -> Array:
    """For every type of question a label at random, drawn from the labels there are, as often as they are there."""
    rng = np.random.default_rng(seed)
    drawn = {one: rng.choice(labels) for one in dict.fromkeys(types)}
    return np.array([drawn[one] for one in types])


def splits_of(groups: Sequence[Hashable], folds: int, seed: int) -> list[Split]:
    """Folds that no group straddles.

    Raises:
        UserError: fewer groups than folds.
    """
    from sklearn.model_selection import GroupKFold

    number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    if len(number) < folds:
        raise UserError(
            f"{len(number)} groups of questions cannot be divided into {folds} folds; give more questions or fewer folds"
        )
    own = np.array([number[group] for group in groups])
    return list(GroupKFold(folds, shuffle=True, random_state=seed).split(own, groups=own))


def folds_of(splits: Sequence[Split]) -> Int[Tensor, " question"]:
    """In which fold each question is predicted."""
    found = torch.zeros(sum(len(held_out) for _, held_out in splits), dtype=torch.long)
    for number, (_, held_out) in enumerate(splits):
        found[torch.from_numpy(held_out)] = number
    return found


def one_each(given: Sequence[T], count: int, what: str) -> list[T]:
    """`given`, one for each of as many questions.

    Raises:
        UserError: another number of them.
    """
    if isinstance(given, str) or len(given) != count:
        raise UserError(f"{what}: {len(given)} for {count} questions; give one each")
    return list(given)
