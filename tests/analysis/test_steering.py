"""Steering against a plain loop of hooks; cross-fitting; what is refused."""

from random import Random

import pytest
import torch

from codi_lens import Pair, UserError, Variant, patch_positions, steer
from codi_lens.analysis.probes.fitting import groups_of, splits_of
from codi_lens.organisms.scorecard import load_organism
from codi_lens.patching.interventions import unit_vector
from tests.laws import plain

PAIRS = [
    Pair(i, Variant(f"{a} plus {b}?", a + b, (a, b)), Variant(f"{a} plus 3?", a + 3, (a, 3)))
    for i, (a, b) in enumerate((a, b) for a in (12, 30, 5) for b in (6, 7))
]
NAME, STEP = "blocks.1.hook_resid_post", 1
STRENGTHS = (1.0, -3.0)


def folds():
    """Pairs by fold, each with the pairs that its vectors come from."""
    for learned, held_out in splits_of(groups_of(PAIRS), 3, 0):
        yield sorted({i // 2 for i in held_out}), sorted({i // 2 for i in learned})


def test_a_sweep_is_a_plain_loop_with_a_hook(tiny):
    found = steer(tiny, PAIRS, 1, STEP, strengths=STRENGTHS, folds=3)
    clean, corrupted = (
        [plain.unpatched(tiny, q).at(NAME, STEP).detach() for q in questions]
        for questions in zip(
            *((p.clean.question, p.corrupted.question) for p in PAIRS), strict=True
        )
    )
    seen = []
    for held_out, learned in folds():
        assert not set(held_out) & set(learned)
        vector = torch.stack([clean[i] - corrupted[i] for i in learned]).mean(0)
        for i in held_out:
            seen.append(i)
            torch.testing.assert_close(found.vectors[i], vector, rtol=0, atol=1e-12)
            random = unit_vector(Random(f"0/{i}").getrandbits(62), len(vector)) * vector.norm()
            for swept, added in ((found.steered, vector), (found.random, random)):
                for j, strength in enumerate(STRENGTHS):
                    edits = [(NAME, STEP, None, corrupted[i] + strength * added)]
                    expected = plain.metrics(tiny, PAIRS[i], edits=edits)
                    for name in ("logit_diff", "flipped"):
                        value = float(getattr(swept, name)[i, j])
                        assert value == pytest.approx(expected[name], abs=1e-9)
    assert sorted(seen) == list(range(len(PAIRS)))


def test_nothing_added_changes_nothing(tiny):
    found = steer(tiny, PAIRS, 1, STEP, strengths=[0], folds=3)
    base = patch_positions(tiny, PAIRS, layers=[1], positions=[STEP])
    metrics = [one.base.metrics for one in base.outcomes]
    for swept in (found.steered, found.random):
        unchanged = [one["logit_diff"] for one in metrics]
        assert swept.logit_diff[:, 0].tolist() == pytest.approx(unchanged, rel=0, abs=1e-12)
        assert swept.right[:, 0].tolist() == [one["base_given"] for one in metrics]
        assert not swept.flipped.any()


def test_the_vector_is_that_of_the_intervention_of_this_name(tiny):
    found = steer(tiny, PAIRS, 1, STEP, strengths=[2], folds=3)
    for held_out, learned in folds():
        named = patch_positions(
            tiny,
            [PAIRS[i] for i in held_out],
            layers=[1],
            positions=[STEP],
            intervention="steer",
            data=[PAIRS[i] for i in learned],
            strength=2,
        )
        torch.testing.assert_close(
            named.values("logit_diff")[:, 0, 0, 0], found.steered.logit_diff[held_out, 0]
        )


def test_a_vector_between_classes_makes_the_answer_follow_a_planted_result():
    organism = load_organism("dense")
    found = steer(organism.codi, organism.pairs, "thought", 1, strengths=[0, 1], label="v2")
    differ = [p for p in organism.pairs if p.clean.intermediates[1] != p.corrupted.intermediates[1]]
    assert {p.pair_id for p in found.pairs} <= {p.pair_id for p in differ}
    assert len(found.pairs) + found.left_out == len(organism.pairs)
    assert float(found.steered.flipped[:, 1].mean()) >= 0.9
    assert float(found.steered.right[:, 1].mean()) <= 0.1
    assert float(found.random.flipped[:, 1].mean()) <= 0.1
    given = steer(
        organism.codi, found.pairs[:2], "thought", 1, strengths=[1], vector=found.vectors[0]
    )
    assert torch.equal(given.steered.flipped[0], found.steered.flipped[0, 1:])


def test_what_cannot_be_steered_is_refused(tiny):
    for options, message in (
        ({"strengths": []}, "give a list of finite numbers"),
        ({"strengths": [float("nan")]}, "give a list of finite numbers"),
        ({"folds": 7}, "cannot be divided into 7 folds"),
        ({"site": "kv", "folds": 3}, "not one vector; give another site, such as z or v"),
        ({"label": "v2", "folds": 3}, "so no v2"),
        ({"label": "operand1", "folds": 3}, "for none of the 6 pairs is there a vector"),
        ({"label": "v1", "vector": torch.ones(32)}, "means nothing beside a vector"),
    ):
        with pytest.raises(UserError, match=message):
            steer(tiny, PAIRS, 1, STEP, **options)
