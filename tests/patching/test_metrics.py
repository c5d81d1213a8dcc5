"""Metrics on numbers that are worked out by hand."""

import math

import pytest
import torch

from codi_lens.data.answers import AnswerPair
from codi_lens.patching.answer_logits import (
    AnswerLogits,
    answer_logprob,
    answer_score,
    kl_divergence,
    l2_difference,
    logit_diff,
    prediction_change_rate,
    recovery,
    recovery_is_defined,
)
from codi_lens.patching.metrics import Measured, cell_metrics

LN2 = math.log(2)


def logits_of(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_kl_is_the_expectation_under_its_first_argument():
    # P = (1/2, 1/2), Q = (1/4, 3/4): KL(P‖Q) = ½ ln 2 + ½ ln ⅔; KL(Q‖P) = ¼ ln ½ + ¾ ln 3/2.
    p, q = logits_of([0.5, 0.5]), logits_of([0.25, 0.75])
    assert kl_divergence(p, q).item() == pytest.approx(0.5 * LN2 + 0.5 * math.log(2 / 3))
    assert kl_divergence(q, p).item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


def test_kl_ignores_a_shift_and_averages_positions():
    p, q = logits_of([0.5, 0.5], [0.9, 0.1]), logits_of([0.25, 0.75], [0.9, 0.1])
    alone = kl_divergence(p[:1], q[:1]).item()
    assert kl_divergence(p + 7, q).item() == pytest.approx(alone / 2)


def test_l2_is_a_distance_per_position():
    a = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[0.0, 4.0], [0.0, 1.0]])
    assert l2_difference(a, b).item() == pytest.approx((5 + 1) / 2)


def test_prediction_change_rate_counts_positions():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    b = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    assert prediction_change_rate(a, b).item() == 0.25


def test_scores_read_each_token_where_it_is_predicted():
    logits = torch.tensor([[1.0, 5.0, 0.0], [2.0, 0.0, 7.0]])
    tokens = torch.tensor([1, 2])
    assert answer_score(logits, tokens).item() == 6.0  # (5 + 7) / 2
    probabilities = logits_of([0.25, 0.5, 0.25], [0.125, 0.625, 0.25])
    assert answer_logprob(probabilities, tokens).item() == pytest.approx(math.log(0.5 * 0.25))


def test_logit_diff_and_recovery():
    assert logit_diff(torch.tensor([4.0, 1.5]), 0, 1).item() == 2.5
    base, source = torch.tensor(-2.0), torch.tensor(6.0)
    assert [recovery(torch.tensor(x), base, source).item() for x in (-2.0, 2.0, 6.0)] == [0, 0.5, 1]
    # The other way round: base prefers clean, source corrupted.
    assert recovery(torch.tensor(2.0), source, base).item() == 0.5


def test_recovery_is_defined_only_where_both_runs_prefer_their_own_answer():
    clean = torch.tensor([2.0, -0.1, 2.0, 0.4])
    corrupted = torch.tensor([-1.0, -3.0, 0.1, -0.4])
    assert recovery_is_defined(clean, corrupted, 1.0).tolist() == [True, False, False, False]


ONE_TOKEN = AnswerPair(stem=(5,), clean=(1,), corrupted=(2,), first_difference=0)


def read(*rows):
    """Single-token answers over a vocabulary of three; the stem token is always predicted."""
    logits = torch.tensor(rows, dtype=torch.float64)[:, None]
    return AnswerLogits(torch.full((len(rows), 1), 5), logits, logits)


def metrics_of(logits, tokens):
    return cell_metrics(
        Measured(logits, tokens, base=0, source=1, direction="denoise", min_gap=1.0)
    )


def test_cell_metrics_of_a_single_token_answer():
    # Rows: base (corrupted run), source (clean run), one patched cell. Vocabulary: other, clean, corrupted.
    values = metrics_of(read([0, 1, 5], [0, 5, 1], [0, 4, 2]), ONE_TOKEN)
    assert values["logit_diff"].tolist() == [-4, 4, 2]
    assert values["recovery"].tolist() == [0, 1, 0.75]
    assert values["clean_answer_score"].tolist() == [1, 5, 4]
    assert values["corrupted_answer_score"].tolist() == [5, 1, 2]
    assert values["answer_logit_diff_change"].tolist() == [0, 8, 6]
    assert values["flipped"].tolist() == [0, 1, 1]
    assert values["prediction_change_rate"].tolist() == [0, 1, 1]
    assert values["l2_difference"][2].item() == pytest.approx(math.sqrt(9 + 9))
    weights = [1.0, math.exp(4), math.exp(2)]  # exp of the patched row
    base_weights = [1.0, math.e, math.exp(5)]
    patched = [w / sum(weights) for w in weights]
    base = [w / sum(base_weights) for w in base_weights]
    expected = sum(p * math.log(p / b) for p, b in zip(patched, base, strict=True))
    assert values["kl_divergence"][2].item() == pytest.approx(expected)
    assert values["logprob_clean"][2].item() == pytest.approx(math.log(patched[1]))


def test_a_flip_needs_every_position_and_a_base_run_that_does_not_say_it_already():
    wrong_stem = AnswerLogits(
        torch.tensor([[5], [5], [4]]), *[torch.eye(3, dtype=torch.float64)[:, None]] * 2
    )
    tokens = AnswerPair(stem=(5,), clean=(2,), corrupted=(0,), first_difference=0)
    values = metrics_of(wrong_stem, tokens)
    assert values["flipped"].tolist() == [
        0,
        0,
        0,
    ]  # the last row says 2, but not the stem before it
    already = read([0, 5, 1], [0, 5, 1], [0, 5, 1])
    values = metrics_of(already, ONE_TOKEN)
    assert values["flipped"].tolist() == [0, 0, 0]
    assert values["recovery"].isnan().all()


def test_same_answers_have_no_logit_diff_and_no_recovery():
    tokens = AnswerPair(stem=(5,), clean=(1,), corrupted=(1,), first_difference=None)
    values = metrics_of(read([0, 1, 5], [0, 5, 1]), tokens)
    assert values["logit_diff"].isnan().all()
    assert values["recovery"].isnan().all()
    assert values["answer_logit_diff"].tolist() == [0, 0]


def test_half_precision_is_raised_before_it_is_reduced():
    logits = torch.tensor([[[20.0, 20.125]]], dtype=torch.bfloat16)
    assert answer_logprob(logits, torch.tensor([0])).dtype == torch.float32
    exact = answer_logprob(logits.double(), torch.tensor([0])).item()
    assert answer_logprob(logits, torch.tensor([0])).item() == pytest.approx(exact, abs=1e-6)
