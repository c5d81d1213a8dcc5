"""What a patch did to the answer: pure functions on logits.

Logits are [..., pos, d_vocab]; "pos" are the positions that *predict* the tokens in question, and
every function reduces over it. Softmax is over the whole vocabulary. Half precision is raised to
float32 first. Directions matter and are stated: KL(P‖Q) is the first argument's expectation.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from codi_lens.choices import Direction
from codi_lens.data.answers import AnswerPair

CELL_METRICS = (
    "kl_divergence",
    "kl_to_source",
    "l2_difference",
    "prediction_change_rate",
    "answer_logit_diff",
    "answer_logit_diff_change",
    "clean_answer_score",
    "corrupted_answer_score",
    "logit_diff",
    "recovery",
    "logprob_clean",
    "logprob_corrupted",
    "flipped",
)


def kl_divergence(
    p: Float[Tensor, "*rows pos d_vocab"], q: Float[Tensor, "*rows pos d_vocab"]
) -> Float[Tensor, "*rows"]:
    """KL(P‖Q) in nats, mean over positions."""
    return _kl(_raised(p).log_softmax(-1), _raised(q).log_softmax(-1))


def l2_difference(
    a: Float[Tensor, "*rows pos d_vocab"], b: Float[Tensor, "*rows pos d_vocab"]
) -> Float[Tensor, "*rows"]:
    """Euclidean distance of two logit vectors, mean over positions; in logits."""
    return (_raised(a) - _raised(b)).norm(dim=-1).mean(-1)


def prediction_change_rate(
    a: Float[Tensor, "*rows pos d_vocab"], b: Float[Tensor, "*rows pos d_vocab"]
) -> Float[Tensor, "*rows"]:
    """Share of positions whose top-1 token differs, 0 to 1."""
    return (top_1(a) != top_1(b)).to(torch.promote_types(a.dtype, torch.float32)).mean(-1)


def top_1(logits: Float[Tensor, "*rows d_vocab"]) -> Int[Tensor, "*rows"]:
    """The token with the largest logit, the first of equals."""
    return logits.max(-1).indices  # on the CPU several times as fast as argmax


def answer_score(
    logits: Float[Tensor, "*rows pos d_vocab"], tokens: Int[Tensor, " pos"]
) -> Float[Tensor, "*rows"]:
    """Mean over the answer's tokens of the raw logit of each at the position that predicts it."""
    return _at_tokens(_raised(logits), tokens).mean(-1)


def answer_logprob(
    logits: Float[Tensor, "*rows pos d_vocab"], tokens: Int[Tensor, " pos"]
) -> Float[Tensor, "*rows"]:
    """Sum of the log-probabilities of the answer's tokens, in nats."""
    return _at_tokens(_raised(logits).log_softmax(-1), tokens).sum(-1)


def _kl(
    log_p: Float[Tensor, "*rows pos d_vocab"], log_q: Float[Tensor, "*rows pos d_vocab"]
) -> Float[Tensor, "*rows"]:
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)


def logit_diff(
    logits: Float[Tensor, "*rows d_vocab"], clean: int, corrupted: int
) -> Float[Tensor, "*rows"]:
    """logit(clean) − logit(corrupted) at the one position where the two answers part."""
    raised = _raised(logits)
    return raised[..., clean] - raised[..., corrupted]


def recovery(
    patched: Float[Tensor, "*rows"], base: Float[Tensor, "*rows"], source: Float[Tensor, "*rows"]
) -> Float[Tensor, "*rows"]:
    """(LD_patched − LD_base) / (LD_source − LD_base): 0 nothing, 1 all, in both directions."""
    return (patched - base) / (source - base)


def recovery_is_defined(
    clean: Float[Tensor, "*rows"], corrupted: Float[Tensor, "*rows"], min_gap: float
) -> Bool[Tensor, "*rows"]:
    """Whether both runs prefer their own answer and their logit differences are `min_gap` apart."""
    return (clean > 0) & (corrupted < 0) & (clean - corrupted >= min_gap)


@dataclass(frozen=True)
class Readout:
    """The logits of some rows of one pair at its answer, read with either answer forced."""

    stem_predictions: Int[Tensor, "rows stem_pos"]
    """Top-1 tokens at eot and after each stem token but the last: what the model would say there."""
    clean: Float[Tensor, "rows clean_pos d_vocab"]
    """At the positions that predict the clean answer's number tokens, that answer forced."""
    corrupted: Float[Tensor, "rows corrupted_pos d_vocab"]

    def forced(self, name: Literal["clean", "corrupted"]) -> Float[Tensor, "rows pos d_vocab"]:
        """The logits with the named answer forced."""
        return self.clean if name == "clean" else self.corrupted


def sides(
    direction: Direction,
) -> tuple[Literal["clean", "corrupted"], Literal["clean", "corrupted"]]:
    """(base, source): which variant is patched into, and which the activations come from."""
    return ("corrupted", "clean") if direction == "denoise" else ("clean", "corrupted")


def says(
    readout: Readout, tokens: AnswerPair, name: Literal["clean", "corrupted"]
) -> Bool[Tensor, " rows"]:
    """Whether the top-1 token is the named answer's at every position from eot through the number."""
    stem = torch.tensor(tokens.stem, device=readout.clean.device, dtype=torch.long)
    number = torch.tensor(getattr(tokens, name), device=readout.clean.device)
    in_stem = (readout.stem_predictions == stem).all(-1)
    return in_stem & (top_1(readout.forced(name)) == number).all(-1)


def cell_metrics(
    readout: Readout,
    tokens: AnswerPair,
    *,
    base: int,
    source: int,
    direction: Direction,
    min_gap: float,
) -> dict[str, Float[Tensor, " rows"]]:
    """All metrics of all rows of one pair; NaN where a metric is not defined for the pair.

    Args:
        readout: of the base run, the source run and every patched run.
        tokens: number tokens of both answers.
        base, source: the rows of the runs that are patched into and taken from.
        direction: which of the two is the clean one.
        min_gap: in logits; recovery is left undefined below this distance of clean and corrupted.
    """
    base_name, source_name = sides(direction)
    at_base = readout.forced(base_name)
    unpatched = at_base[base : base + 1]
    log_probs = _log_probs(readout)
    log_base, log_source = log_probs[base_name], log_probs[source_name]
    clean = torch.tensor(tokens.clean, device=readout.clean.device)
    corrupted = torch.tensor(tokens.corrupted, device=readout.clean.device)
    clean_score = answer_score(readout.clean, clean)
    corrupted_score = answer_score(readout.corrupted, corrupted)
    difference = clean_score - corrupted_score
    says_source = says(readout, tokens, source_name)
    ld, restored = _logit_diffs(readout, tokens, base, source, direction, min_gap)
    return {
        "kl_divergence": _kl(log_base, log_base[base : base + 1]),
        "kl_to_source": _kl(log_source[source : source + 1], log_source),
        "l2_difference": l2_difference(at_base, unpatched),
        "prediction_change_rate": prediction_change_rate(at_base, unpatched),
        "answer_logit_diff": difference,
        "answer_logit_diff_change": difference - difference[base],
        "clean_answer_score": clean_score,
        "corrupted_answer_score": corrupted_score,
        "logit_diff": ld,
        "recovery": restored,
        "logprob_clean": _at_tokens(log_probs["clean"], clean).sum(-1),
        "logprob_corrupted": _at_tokens(log_probs["corrupted"], corrupted).sum(-1),
        "flipped": (says_source & ~says_source[base]).to(difference.dtype),
    }


def _log_probs(readout: Readout) -> dict[str, Float[Tensor, "rows pos d_vocab"]]:
    """Log-probabilities with either answer forced; answers of one token are read off the same logits."""
    clean = _raised(readout.clean).log_softmax(-1)
    if readout.corrupted is readout.clean:
        return {"clean": clean, "corrupted": clean}
    return {"clean": clean, "corrupted": _raised(readout.corrupted).log_softmax(-1)}


def _logit_diffs(
    readout: Readout,
    tokens: AnswerPair,
    base: int,
    source: int,
    direction: Direction,
    min_gap: float,
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """`logit_diff` and `recovery`; NaN for equal answers, recovery also where it means nothing."""
    t = tokens.first_difference
    if t is None:
        undefined = _raised(readout.clean[:, 0, 0]) * torch.nan
        return undefined, undefined
    ld = logit_diff(readout.clean[:, t], tokens.clean[t], tokens.corrupted[t])
    clean, corrupted = (source, base) if direction == "denoise" else (base, source)
    restored = recovery(ld, ld[base], ld[source])
    defined = recovery_is_defined(ld[clean], ld[corrupted], min_gap)
    return ld, restored if defined else torch.full_like(restored, torch.nan)


def _raised(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _at_tokens(
    values: Float[Tensor, "*rows pos d_vocab"], tokens: Int[Tensor, " pos"]
) -> Float[Tensor, "*rows pos"]:
    positions = torch.arange(len(tokens), device=values.device)
    return values[..., positions, tokens]
