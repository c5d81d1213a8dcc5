"""Probes against scikit-learn called plainly, on activations of the plain loop; folds, controls and what is refused."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from codi_lens import Pair, UserError, Variant, measure_usage, patch_positions, probe
from codi_lens.analysis.probes.fitting import control_labels, groups_of
from codi_lens.organisms.scorecard import load_organism
from codi_lens.patching.interventions import InSubspace
from tests.laws import plain

ASKED = [Variant(f"{a} plus {b}?", a + b, (a, b), (a % 3,)) for a in range(3, 9) for b in (1, 4, 6)]
PLAIN = {"logistic": LogisticRegression(C=0.5, max_iter=1000), "ridge": Ridge(alpha=2.0)}


@pytest.fixture(scope="module")
def dense():
    return load_organism("dense")


@pytest.mark.parametrize("kind", PLAIN)
def test_probes_are_scikit_learns_on_the_same_folds(tiny, kind):
    found = probe(
        tiny, ASKED, "v1", kind=kind, places=["thought", 1], positions=[0, 2], folds=3, penalty=2.0
    )
    truth = np.array([one.intermediates[0] for one in ASKED])
    own = make_pipeline(StandardScaler(), PLAIN[kind])
    types = [one.operands[0] for one in ASKED]
    for i, name in enumerate(("thought", "blocks.1.hook_resid_post")):
        for j, step in enumerate((0, 2)):
            ran = [plain.unpatched(tiny, one.question) for one in ASKED]
            inputs = [
                one.thoughts[step] if name == "thought" else one.at(name, step) for one in ran
            ]
            x = torch.stack(inputs).detach().numpy()
            for labels, score in (
                (truth, found.score),
                (control_labels(types, truth, 0), found.control),
            ):
                guessed = cross_val_predict(own, x, labels, cv=PredefinedSplit(found.fold.numpy()))
                right = np.mean(guessed == labels)
                r2 = 1 - np.mean((guessed - labels) ** 2) / np.var(labels)
                assert float(score[i, j]) == pytest.approx(right if kind == "logistic" else r2)
            cell = found.rows[i], step
            fitted = own.fit(x, truth)
            read = fitted.decision_function if kind == "logistic" else fitted.predict
            grown = (x - x[:1]) @ found.directions[cell].numpy().T
            expected = read(x) - read(x[:1])
            np.testing.assert_allclose(grown.reshape(expected.shape), expected, atol=1e-8)
    if kind == "logistic":
        assert found.classes == (0, 1, 2)
        expected = found.score - found.control
        torch.testing.assert_close(found.selectivity, expected)
        assert found.baseline == pytest.approx(1 / 3)
        assert found.correct.shape == (len(ASKED), 2, 2)


def test_of_two_classes_the_weights_are_those_of_the_logits(tiny):
    label = [one.answer % 2 for one in ASKED]
    found = probe(tiny, ASKED, label, places=[1], positions=[1], folds=3)
    ran = [plain.unpatched(tiny, one.question) for one in ASKED]
    x = torch.stack([one.at("blocks.1.hook_resid_post", 1) for one in ran]).detach().numpy()
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, label)
    zero, one = (found.direction(1, 1, value).numpy() for value in (0, 1))
    expected = fitted.decision_function(x) - fitted.decision_function(x[:1])
    np.testing.assert_allclose((x - x[:1]) @ (one - zero), expected, atol=1e-6)
    assert found.basis(1, 1).shape[1] == 1


def test_no_group_straddles_folds():
    sides = [("a", "b"), ("c", "d"), ("e", "c"), ("f", "g"), ("g", "b")]
    pairs = [Pair(i, *(Variant(q, 1) for q in both)) for i, both in enumerate(sides)]
    groups = groups_of(pairs)
    # a-b and f-g are joined by g-b, c-d and e-c by c.
    assert [groups[i] for i in (0, 1, 6, 7, 8, 9)] == [groups[0]] * 6
    assert [groups[i] for i in (2, 3, 4, 5)] == [groups[2]] * 4
    assert groups[0] != groups[2]
    assert groups_of(["x", "y", "x"]) == [0, 1, 0]


def test_folds_keep_pairs_and_equal_questions_together(tiny, dense):
    found = probe(dense.codi, dense.pairs, "v1", places=["thought"], positions=[0])
    assert sorted(set(found.fold.tolist())) == [0, 1, 2, 3, 4]
    assert torch.equal(found.fold[::2], found.fold[1::2])
    twice = [*ASKED, *ASKED]
    labels = list(range(2)) * len(ASKED)
    again = probe(tiny, twice, labels, places=["thought"], positions=[0], folds=4)
    assert torch.equal(again.fold[: len(ASKED)], again.fold[len(ASKED) :])


def test_control_labels_depend_on_the_type_alone_and_are_drawn_from_the_labels():
    labels = np.array([0.0] * 900 + [1.0] * 100)
    drawn = control_labels(list(range(1000)), labels, 0)
    assert 0.06 < drawn.mean() < 0.14  # four standard deviations
    types = [i % 5 for i in range(1000)]
    same = control_labels(types, labels, 0)
    assert all(len(set(same[kind::5])) == 1 for kind in range(5))


def test_a_shuffled_label_is_read_at_chance_and_the_real_one_is_not(dense):
    labels = [
        side.intermediates[0] for pair in dense.pairs for side in (pair.clean, pair.corrupted)
    ]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).tolist()
    real, shuffled = (
        probe(dense.codi, dense.pairs, given, places=["thought"])
        for given in (labels, [labels[i] for i in order])
    )
    assert float(real.score[0, 0]) > 0.9
    shares = torch.bincount(real.labels.long()) / len(labels)
    chance = float((shares**2).sum())
    reach = 4 * (chance * (1 - chance) / len(labels)) ** 0.5  # four standard deviations
    assert (shuffled.score - chance).abs().max() < reach
    assert abs(float(shuffled.selectivity.mean())) < reach


def test_exchanging_what_a_probe_sees_makes_it_read_the_other_question(dense):
    found = probe(dense.codi, dense.pairs, "v2", places=["thought", 0], positions=[1, 2])
    basis, weights = found.basis("thought", 1), found.directions["thought", 1]
    own, other = torch.randn(2, len(basis), dtype=torch.float64)
    moved = InSubspace.exchanged(own, other, basis)
    torch.testing.assert_close(weights @ moved, weights @ other)
    assert basis.shape[1] == len(found.classes) - 1  # softmax does not see what all logits share
    usage = measure_usage(dense.codi, dense.pairs, found)
    chosen = usage.subspace.pairs
    assert all(p.clean.intermediates[1] != p.corrupted.intermediates[1] for p in chosen)
    assert 0 < len(chosen) < len(dense.pairs)
    one = patch_positions(
        dense.codi, chosen, layers=[0], positions=[2], intervention=found.intervention(0, 2)
    )
    expected = usage.subspace.values("logit_diff", layer=0, position=2)[:, 0]
    torch.testing.assert_close(one.values("logit_diff")[:, 0, 0, 0], expected)
    recovered = usage.subspace.mean("recovery", effect="total", row="thought", column=1)
    assert float(recovered) > 0.9
    assert abs(float(usage.random.mean("recovery", effect="total", row=0, column=2))) < 0.1


def test_what_cannot_be_probed_is_refused(tiny, unchecked):
    for asked, label, options, message in (
        (ASKED, "v3", {}, "knows 2 results, so no v3"),
        (ASKED, "w", {}, "no label 'w'; give answer, a result such as v1, or operand1"),
        (ASKED, [1, 2], {}, "labels: 2 for 18 questions"),
        (ASKED, [1] * 18, {}, "all 18 questions have the label 1"),
        (ASKED, ["a", "b"] * 9, {"kind": "ridge"}, "the label 'a' is no number"),
        (ASKED, "v1", {"folds": 19}, "18 groups of questions cannot be divided into 19 folds"),
        (ASKED, "v1", {"folds": 1}, "folds is 1; it must be a whole number, 2 or more"),
        (ASKED, "v1", {"kind": "tree"}, "no kind 'tree'"),
        (ASKED, "v1", {"penalty": 0.0}, "penalty is 0.0; it must be more than 0"),
        (ASKED, "v1", {"site": "kv"}, "not one vector; give another site"),
        ([], "v1", {}, r"the questions are \[\]; give a list"),
        (["12 plus 3?"], "answer", {}, "a text has no label 'answer'; give a list of labels"),
        ([ASKED[0], 5], "v1", {}, "5 stands among questions"),
    ):
        with pytest.raises(UserError, match=message):
            probe(tiny, asked, label, **options)
    found = probe(tiny, ASKED, "v1", places=[0], positions=[0], folds=3)
    with pytest.raises(UserError, match="no class 7; known are 0, 1, 2"):
        found.direction(0, 0, 7)
    same = [Pair(0, ASKED[0], ASKED[1])]
    with pytest.raises(UserError, match="in none of the 1 pairs do the sides differ in v1"):
        measure_usage(tiny, same, found)
