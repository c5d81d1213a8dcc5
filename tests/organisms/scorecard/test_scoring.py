"""The figures of the scorecard, against scikit-learn and by hand."""

import dataclasses
import random

import pytest
import torch

from codi_lens.data.pairs import Pair, Variant
from codi_lens.errors import UserError
from codi_lens.organisms.planted.truth import Truth
from codi_lens.organisms.scorecard import METHODS, Findings, Organism, load_organism, score
from codi_lens.organisms.scorecard.scoring import auroc, average_precision, judge


def pair(number, clean, corrupted):
    """With results v1, v2 and the answer on either side."""
    sides = [Variant("?", values[-1], (), tuple(values[:-1])) for values in (clean, corrupted)]
    return Pair(number, *sides)


PAIRS = (
    pair(0, (1, 2, 3), (4, 5, 6)),
    pair(1, (1, 2, 3), (7, 8, 9)),
    pair(2, (1, 2, 3), (1, 5, 6)),
)
"""In two the first result differs, in one the second."""
TRUTH = Truth(
    "sequential",
    "",
    3,
    ("v1", "v2", "v3"),
    {0: ("v1",), 1: ("v2",)},
    {"v1": (0, 1), "v2": (1,)},
    {1: "kv"},
)


@pytest.fixture
def organism():
    made = Organism("by hand", None, PAIRS, TRUTH)
    made.__dict__["iia"] = {"v1": [0.9, 0.2, 0.1], "v2": [0.3, 0.8, 0.2], "v3": [0.0, 0.0, 0.0]}
    return made


def test_figures_by_hand(organism):
    """Cells v1 [.9 .3 .3] and v2 [.2 .8 -.4], of which thoughts 0 and 1, and 1, are on the way."""
    scores = torch.tensor([[1.0, 0.2, 0.2], [0.8, 0.4, 0.4], [0.2, 0.8, -0.4]])
    routes = {"state": torch.zeros(3, 3), "kv": torch.ones(3, 3)}
    found = judge("m", Findings(scores, 0.35, routes, runs=4), organism)
    assert found.cells == {
        "v1": pytest.approx([0.9, 0.3, 0.3]),
        "v2": pytest.approx([0.2, 0.8, -0.4]),
    }
    # True cells .9, .3, .8 against .3, .2, .4: of nine comparisons 7 are won and one is a tie.
    assert found.auroc == pytest.approx(7.5 / 9)
    # Precision where true cells come: 1/1, 2/2, and 3/5, the third sharing its rank with a false one.
    assert found.average_precision == pytest.approx((1 + 1 + 3 / 5) / 3)
    assert found.hits == pytest.approx(2 / 3)
    assert found.false_positives == pytest.approx(1 / 3)
    # Named are thought 0 for v1, and for v2 the first that reaches .4: thought 1.
    assert found.iia == pytest.approx((0.9 + 0.8) / 2)
    assert found.routes_auroc == 1.0
    assert found.runs == 4


def test_where_nothing_is_planted_ranks_are_not_defined(organism):
    empty = dataclasses.replace(TRUTH, way={"v1": (), "v2": ()})
    nothing = dataclasses.replace(organism, truth=empty)
    found = judge("m", Findings(torch.zeros(3, 3)), nothing)
    assert (found.auroc, found.average_precision, found.hits, found.iia) == (None,) * 4
    assert found.false_positives == 0
    nan = judge("m", Findings(torch.full((3, 3), torch.nan)), nothing)
    assert nan.cells == {"v1": [0.0] * 3, "v2": [0.0] * 3}


def test_auroc_and_average_precision_by_counting():
    rng = random.Random(0)
    for _ in range(20):
        labels = [rng.random() < 0.4 for _ in range(12)] + [True, False]
        values = [rng.choice([0.0, 0.1, 0.5, 0.7]) for _ in labels]
        true = [v for v, there in zip(values, labels, strict=True) if there]
        false = [v for v, there in zip(values, labels, strict=True) if not there]
        wins = sum((t > f) + (t == f) / 2 for t in true for f in false)
        assert auroc(labels, values) == pytest.approx(wins / len(true) / len(false))
        precisions = [sum(v >= t for v in true) / sum(v >= t for v in values) for t in true]
        assert average_precision(labels, values) == pytest.approx(sum(precisions) / len(true))


def test_a_method_of_ones_own_needs_a_function_only(unchecked):
    organism = load_organism("dense")

    def mine(codi, pairs):
        """It counts the operands that differ: of no use."""
        return torch.ones(len(pairs), codi.num_latents())

    found = score(mine, organism)
    assert (found.method, found.auroc, found.false_positives) == ("mine", 0.5, 1)

    def wrong(codi, pairs):
        return torch.ones(2)

    with pytest.raises(
        UserError, match=r"wrong gave scores \(2,\); expected \[pair, thought\], \(48, 4\)"
    ):
        score(wrong, organism)
    with pytest.raises(UserError, match="no method 'magic'; known are random scores"):
        score("magic", organism)


def test_no_method_reads_the_truth():
    """With another truth, every method finds the same cells."""
    organism = load_organism("dense")
    organism = dataclasses.replace(organism, pairs=organism.pairs[::8])
    names = list(organism.truth.variables)
    other = dataclasses.replace(
        organism.truth,
        way={name: tuple(reversed(range(k))) for k, name in enumerate(names)},
        holds={},
        mechanism="redundant",
    )
    shuffled = dataclasses.replace(organism, truth=other)
    shuffled.__dict__["iia"] = {name: [0.0] * 4 for name in names}
    for method in METHODS:
        assert score(method, shuffled).cells == score(method, organism).cells
