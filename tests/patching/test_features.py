"""Features: patched and ablated against plain runs, attributed against finite differences; laws of orthonormal dictionaries."""

from dataclasses import dataclass

import pytest
import torch

from codi_lens import UserError, attribute, attribute_features, patch_features, patch_positions
from codi_lens.analysis import features
from codi_lens.model.hooks import Site
from codi_lens.patching.features import Features
from codi_lens.patching.interventions import InSubspace
from codi_lens.patching.plan import BASE, SOURCE
from tests.laws import plain
from tests.patching.test_places import PAIRS

NAME, LAYER, STEP, WIDTH = "blocks.1.hook_resid_post", 1, 1, 32
METRICS = ("logit_diff", "kl_divergence", "answer_logit_diff")


@dataclass
class Sparse:
    """A dictionary that reconstructs badly: the error term is large."""

    encoder: torch.Tensor
    decoder: torch.Tensor

    def encode(self, x):
        return (x @ self.encoder).relu()

    def decode(self, features):
        return features @ self.decoder + 1.0


class Basis:
    def __init__(self, basis):
        self.basis = basis

    def encode(self, x):
        return x @ self.basis

    def decode(self, features):
        return features @ self.basis.T


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


SPARSE = Sparse(normal(WIDTH, 50), normal(50, WIDTH, seed=1))
BASIS = Basis(torch.linalg.qr(normal(WIDTH, WIDTH))[0])


def test_changing_nothing_leaves_the_run_to_the_bit(tiny):
    own = normal(3, WIDTH, seed=2)
    for what in (Features((BASE,), SPARSE, tuple(range(50))), Features((), SPARSE, ())):
        assert torch.equal(what.values([what] * 3, own, *([own] * len(what.reads))), own)
    same = Features((BASE,), SPARSE, (0, 7))
    sweep = patch_positions(tiny, PAIRS, layers=[LAYER], positions=[STEP], intervention=same)
    for outcome in sweep.outcomes:
        for name in METRICS:
            patched = float(outcome.metrics[name])
            assert patched == pytest.approx(outcome.base.metrics[name], rel=0, abs=1e-12)


def test_an_orthonormal_dictionary_is_a_change_of_basis(tiny):
    def values(what):
        sweep = patch_positions(tiny, PAIRS, layers=[LAYER], positions=[0, 2], intervention=what)
        return sweep.values("logit_diff")

    every = Features((SOURCE,), BASIS, tuple(range(WIDTH)))
    torch.testing.assert_close(values(every), values("source"), rtol=0, atol=1e-9)
    found = patch_features(tiny, PAIRS, BASIS, LAYER, [0, 2], [3, 11])
    assert found.axes["row"] == (3, 11)
    for feature in (3, 11):
        one = InSubspace((SOURCE,), BASIS.basis[:, [feature]])
        own = found.values("logit_diff", feature=feature)
        torch.testing.assert_close(own, values(one)[:, :, 0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("how", ["patch", "ablate"])
def test_a_feature_goes_in_with_the_error_kept(tiny, how):
    chosen = [4, 9, 30]
    direction = "denoise" if how == "patch" else "noise"
    sweep = patch_features(tiny, PAIRS, SPARSE, LAYER, [STEP], chosen, how=how, direction=direction)
    changed = 0
    for i, pair in enumerate(PAIRS):
        own, other = (plain.unpatched(tiny, q).at(NAME, STEP) for q in plain.sides(pair, direction))
        for feature in chosen:
            value = SPARSE.encode(other)[feature] if how == "patch" else 0.0
            gain = value - SPARSE.encode(own)[feature]
            changed += bool(gain)
            edits = [(NAME, STEP, None, own + gain * SPARSE.decoder[feature])]
            expected = plain.metrics(tiny, pair, direction, edits=edits)
            plain.same(sweep, i, expected, effect="total", feature=feature, position=STEP)
    assert changed


def test_attribution_is_the_finite_difference_along_each_feature(tiny):
    pair, size = PAIRS[1], 1e-6
    scores = attribute_features(tiny, [pair], SPARSE, LAYER, [STEP], method="gradient")
    base, source = (plain.unpatched(tiny, q).at(NAME, STEP) for q in plain.sides(pair, "denoise"))
    gain = SPARSE.encode(source) - SPARSE.encode(base)
    assert not scores[0, gain == 0].any()
    for feature in gain.abs().argsort(descending=True)[:3].tolist():
        ends = []
        for share in (size, -size):
            moved = base + share * gain[feature] * SPARSE.decoder[feature]
            edits = [(NAME, STEP, None, moved)]
            ends.append(plain.metrics(tiny, pair, edits=edits)["logit_diff"])
        slope = (ends[0] - ends[1]) / (2 * size)
        assert float(scores[0, feature, 0]) == pytest.approx(slope, rel=1e-6, abs=1e-11)


def test_features_of_a_basis_add_up_to_the_attribution_of_the_place(tiny):
    found = attribute_features(tiny, PAIRS, BASIS, LAYER, [0, 2], steps=3)
    whole = attribute(tiny, PAIRS, places=[LAYER], positions=[0, 2], steps=3, fidelity_cells=0)
    torch.testing.assert_close(found.sum(1), whole.scores[:, 0], rtol=1e-9, atol=1e-12)


def test_of_a_metric_that_is_linear_in_the_place_attribution_is_exact(tiny, monkeypatch):
    """With a gradient that is the same everywhere, the score is what exchanging the feature does."""
    site = Site(NAME, STEP)
    own, other, slope = normal(3, 2, WIDTH, seed=3)
    kept = [{site: one[:, None]} for one in (slope, own, other)]
    monkeypatch.setattr(features, "mean_slopes", lambda *_: (*kept, [True, True]))
    scores = attribute_features(tiny, PAIRS, SPARSE, LAYER, [STEP])
    for feature in range(50):
        put = Features((SOURCE,), SPARSE, (feature,))
        effect = ((put.values([put] * 2, own, other) - own) * slope).sum(1)
        torch.testing.assert_close(scores[:, feature, 0], effect, rtol=0, atol=1e-12)


def test_what_does_not_fit_is_refused(tiny):
    narrow = Basis(torch.eye(8, dtype=torch.float64))
    with pytest.raises(UserError, match="does not take an activation"):
        patch_features(tiny, PAIRS, narrow, LAYER, [STEP], [0])
    lossy = Sparse(normal(WIDTH, 5), normal(5, 4))
    with pytest.raises(UserError, match=r"makes \(1, 4\) of an activation \(1, 32\)"):
        attribute_features(tiny, PAIRS, lossy, LAYER, [STEP])
    for wrong in ([], [1, 1], [50]):
        with pytest.raises(UserError, match="give different numbers from 0 to 49"):
            patch_features(tiny, PAIRS, SPARSE, LAYER, [STEP], wrong)
    with pytest.raises(UserError, match="no how 'steer'; known are patch, ablate"):
        patch_features(tiny, PAIRS, SPARSE, LAYER, [STEP], [0], how="steer")
