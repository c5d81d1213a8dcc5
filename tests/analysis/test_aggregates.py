"""Aggregates on numbers that are worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from codi_lens import Pair, UserError, Variant, patch_positions
from codi_lens.analysis.aggregates import (
    aggregate,
    as_mapping,
    competent,
    groups,
    interval,
    top_cells,
)
from codi_lens.patching.experiments import POSITIONS
from codi_lens.patching.result import PairOutcome, RunRecord, Sweep
from codi_lens.patching.settings import Settings

NAN = float("nan")


def outcome(pair_id, patched, base, source, *, kl=0.0, right=True, operand="a", same=False):
    """A pair with one layer and two positions, given by its logit differences."""
    pair = Pair(pair_id, Variant("q", 1), Variant("r", 1 if same else 2), operand=operand)
    ld = torch.tensor([[patched]], dtype=torch.float64)
    recovery = (ld - base) / (source - base)
    runs = [RunRecord({"logit_diff": value}, "1", right) for value in (base, source)]
    values = {"logit_diff": ld, "recovery": recovery, "kl_divergence": torch.full_like(ld, kl)}
    return PairOutcome(pair, values, *runs, torch.zeros(1, 2, 4))


def sweep_of(*outcomes):
    return Sweep(POSITIONS, Settings(2, (0,), (0, 1)), 1, False, tuple(outcomes))


def test_recovery_is_a_ratio_of_sums_over_the_pairs_that_have_one():
    undefined = outcome(2, [9.0, 9.0], -1.0, 1.0)
    undefined = replace(
        undefined, metrics=undefined.metrics | {"recovery": torch.full((1, 1, 2), NAN)}
    )
    sweep = sweep_of(
        outcome(0, [0.0, -2.0], -2.0, 2.0), outcome(1, [5.0, -4.0], -5.0, 5.0), undefined
    )
    group = aggregate(sweep)
    # ((0+2) + (5+5)) / (4 + 10) and ((-2+2) + (-4+5)) / 14; the mean of ratios would be 0.75 and 0.05.
    assert group.means["recovery"][0, 0].tolist() == pytest.approx([12 / 14, 1 / 14])
    assert (group.n, group.n_recovery) == (3, 2)
    assert group.recovery_median[0, 0].tolist() == pytest.approx([0.75, 0.05])
    assert group.means["logit_diff"][0, 0, 0].item() == pytest.approx((0 + 5 + 9) / 3)


def test_the_median_of_an_even_number_is_between_the_middle_two():
    group = aggregate(
        sweep_of(*(outcome(i, [ld, 0.0], 0.0, 10.0) for i, ld in enumerate((1, 2, 4, 9))))
    )
    assert group.recovery_median[0, 0].tolist() == pytest.approx([0.3, 0.0])


@pytest.mark.parametrize("pairs", [1, 2, 5, 8])
def test_the_median_is_numpys_where_a_pair_has_a_value(pairs):
    drawn = torch.randn(pairs, 2, generator=torch.Generator().manual_seed(pairs)).double()
    drawn[-1, 0] = NAN
    group = aggregate(
        sweep_of(*(outcome(i, row.tolist(), 0.0, 1.0) for i, row in enumerate(drawn)))
    )
    for j, values in enumerate(drawn.T):
        kept = values[values.isfinite()].numpy()
        wanted = np.median(kept) if len(kept) else NAN
        assert float(group.recovery_median[0, 0, j]) == pytest.approx(wanted, nan_ok=True)


def test_without_a_pair_or_a_metric_there_is_one_message():
    with pytest.raises(UserError, match="no pairs"):
        aggregate(sweep_of())
    with pytest.raises(
        UserError, match="no metric 'kl' in this sweep; known are logit_diff, kl_div"
    ):
        aggregate(sweep_of(outcome(0, [0.0, 0.0], -1.0, 1.0))).means["kl"]


def test_intervals_hold_the_mean_and_shrink_with_agreement():
    apart = sweep_of(*(outcome(i, [float(i % 3), 0.0], -2.0, 2.0, kl=float(i)) for i in range(12)))
    alike = sweep_of(*(outcome(i, [1.0, 0.0], -2.0, 2.0, kl=3.0) for i in range(12)))
    wide, narrow = aggregate(apart), aggregate(alike)
    for group in (wide, narrow):
        for name in ("recovery", "kl_divergence"):
            assert (group.low[name] <= group.means[name] + 1e-12).all()
            assert (group.means[name] <= group.high[name] + 1e-12).all()
    assert narrow.high["kl_divergence"][0, 0, 0] == narrow.low["kl_divergence"][0, 0, 0] == 3
    spread = wide.high["kl_divergence"] - wide.low["kl_divergence"]
    # A normal approximation: 2 · 1.96 · sd / √n with sd = 3.45, n = 12.
    assert spread[0, 0, 0].item() == pytest.approx(3.9, abs=0.5)
    again = aggregate(apart)
    assert torch.equal(again.low["recovery"], wide.low["recovery"])
    # Wherever intervals are shown they are those of the sweep's own seed.
    other = replace(apart, settings=replace(apart.settings, seed=1))
    assert not torch.equal(aggregate(other).low["recovery"], wide.low["recovery"])


def test_groups_keep_same_answers_apart():
    sweep = sweep_of(
        outcome(0, [0.0, 0.0], -1.0, 1.0),
        outcome(1, [0.0, 0.0], -1.0, 1.0, right=False, operand="b"),
        outcome(2, [0.0, 0.0], -1.0, 1.0, same=True),
    )
    chosen = {name: mask.tolist() for name, mask in groups(sweep).items()}
    assert chosen == {
        "all": [True, True, False],
        "competent": [True, False, False],
        "operand a": [True, False, False],
        "operand b": [False, True, False],
        "same_answer": [False, False, True],
    }
    assert competent(sweep).tolist() == [True, False, True]
    assert aggregate(sweep).n == 2


def test_top_cells_leave_out_zeros_nan_and_what_is_below_the_threshold():
    values = torch.tensor([[0.5, 0.9, NAN], [0.7, 0.5, 0.1]])
    zeros = torch.tensor([[False, True, False], [False, False, False]])
    assert top_cells(values, zeros) == [(1, 0), (0, 0), (1, 1), (1, 2)]
    assert top_cells(values, zeros, count=2) == [(1, 0), (0, 0)]
    assert top_cells(values, zeros, threshold=0.5) == [(1, 0)]


def test_nan_is_null_in_json():
    assert as_mapping(torch.tensor([[1.0, NAN]]), (3,), ("bot", 0)) == {
        "3": {"bot": 1.0, "0": None}
    }


def test_values_are_chosen_by_label(tiny):
    pairs = [Pair(0, Variant("1 plus 2?", 3), Variant("1 plus 3?", 4))]
    sweep = patch_positions(tiny, pairs, effect="all", layers=(2, 0), positions=("eot", 1))
    whole = sweep.values("kl_divergence")
    assert whole.shape == (1, 3, 2, 2)
    assert sweep.values("kl_divergence", effect="direct", layer=0, position=1) == whole[:, 1, 1, 1]
    assert sweep.values("kl_divergence", effect="direct", row=0, column=1) == whole[:, 1, 1, 1]
    assert torch.equal(sweep.metrics["kl_divergence"], whole[:, 0])
    for asked, message in (
        (("kl_divergence", {"layer": 1}), "no row 1 in this sweep; known are 2, 0"),
        (
            ("kl_divergence", {"head": 1}),
            "no axis 'head' in this sweep; known are effect, row, column, layer, position",
        ),
        (("kl", {}), "no metric 'kl' in this sweep; known are kl_divergence, "),
    ):
        with pytest.raises(UserError, match=message):
            sweep.values(asked[0], **asked[1])


def test_an_interval_is_over_the_resamples_that_have_a_value():
    resampled = torch.rand(1000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    resampled[:40, 1] = NAN
    resampled[:, 3] = NAN
    wanted = torch.from_numpy(np.stack([_percentiles(column) for column in resampled.T], axis=1))
    torch.testing.assert_close(interval(resampled), wanted, rtol=1e-12, atol=0, equal_nan=True)


def _percentiles(column):
    """By hand: linear between the two values around the rank."""
    values = sorted(float(v) for v in column if v == v)
    if not values:
        return [NAN, NAN]
    places = [share * (len(values) - 1) for share in (0.025, 0.975)]
    return [np.interp(place, range(len(values)), values) for place in places]
