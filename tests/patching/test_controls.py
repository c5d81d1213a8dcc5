"""Controls are what they say, and donors are other pairs."""

import pytest
import torch

from codi_lens import (
    Pair,
    Variant,
    patch_positions,
)
from codi_lens.analysis.aggregates import aggregate, donor_threshold
from codi_lens.data.donors import choose_donors
from codi_lens.model.hooks import replace
from codi_lens.patching.experiments import POSITIONS
from codi_lens.patching.interventions import RandomDirection
from codi_lens.patching.plan import Given
from tests.laws.oracle import captured, cell
from tests.models.invented import CELL_METRICS
from tests.patching.test_experiments import PAIRS, agree, place


def test_controls_are_what_they_say(tiny):
    pairs = [*PAIRS, Pair(3, Variant("3 plus 4?", 7), Variant("3 plus 5?", 8))]
    sweep = patch_positions(tiny, pairs, controls=True, seed=3)
    assert sweep.axes["effect"] == ("total", "identity", "resample", "random_direction")
    assert sweep.values("l2_difference", effect="identity").max() < 1e-10
    donors = {
        pair.pair_id: donor
        for pair, donor in zip(
            pairs, choose_donors(pairs, "clean", sweep.settings.seed), strict=True
        )
    }
    for p, pair in enumerate(pairs):
        donor = donors[pair.pair_id]
        assert donor.clean.answer not in (pair.clean.answer, pair.corrupted.answer)
        assert sweep.outcomes[p].donor == donor.pair_id
        site = place(1, 1)
        hooks = [(site, replace(captured(tiny, donor.clean.question, site, 3)))]
        found = {
            n: sweep.values(n, effect="resample", layer=1, position=1)[p] for n in CELL_METRICS
        }
        agree(found, cell(tiny, pair, hooks), "donor")
        run = tiny.run_with_hooks(pair.corrupted.question, donor.clean.answer, fwd_hooks=hooks)
        tokens = list(run.answer_tokens[0])
        given = run.logits[0, : len(tokens)].argmax(-1).tolist() == tokens
        assert bool(sweep.values("donor_given", effect="resample", layer=1, position=1)[p]) == given


def test_noise_is_as_far_as_the_source_in_a_direction_of_its_own(tiny):
    far = patch_positions(tiny, PAIRS, controls=True, layers=[1], positions=[0])
    again = patch_positions(tiny, PAIRS[1:], controls=True, layers=[1], positions=[0], batch_rows=4)
    other = patch_positions(tiny, PAIRS, controls=True, layers=[1], positions=[0], seed=1)
    noise = [s.values("l2_difference", effect="random_direction") for s in (far, again, other)]
    torch.testing.assert_close(noise[0][1:], noise[1], atol=1e-10, rtol=0)
    assert (noise[0] - noise[2]).abs().min() > 1e-6
    plan = POSITIONS.plan(far.settings, Given(pair_id=0, num_layers=3))
    (displaced,) = [
        run.patches[0].intervention
        for run in plan.runs
        if run.patches and isinstance(run.patches[0].intervention, RandomDirection)
    ]
    assert displaced.reads == (0, 1)
    now = torch.randn(2, 32, dtype=torch.float64)
    moved = displaced.value(now[0], *now) - now[0]
    many = RandomDirection.values([displaced], now[:1], now[:1], now[1:])
    torch.testing.assert_close(many[0] - now[0], moved)
    assert float(moved.norm()) == pytest.approx(float((now[1] - now[0]).norm()))
    assert abs(float(torch.cosine_similarity(moved, now[1] - now[0], dim=0))) < 0.9


def test_a_pair_alone_has_no_donor(tiny):
    sweep = patch_positions(tiny, PAIRS[:1], controls=True)
    assert sweep.outcomes[0].donor is None
    assert sweep.values("kl_divergence", effect="resample").isnan().all()
    assert donor_threshold(sweep, aggregate(sweep)) is None
