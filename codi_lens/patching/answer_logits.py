"""The logits at an answer, and pure functions on them.

Logits are [..., pos, d_vocab]; "pos" are the positions that *predict* the tokens in question, and
every function reduces over it. Softmax is over the whole vocabulary. Half precision is raised to
float32 first. Directions matter and are stated: KL(P‖Q) is the first argument's expectation.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from codi_lens.choices import Direction
from codi_lens.data.answers import AnswerPair
from codi_lens.data.pairs import Side


def kl_divergence(
    p: Float[Tensor, "*#rows pos d_vocab"], q: Float[Tensor, "*#rows pos d_vocab"]
) -> Float[Tensor, "..."]:
    """KL(P‖Q) in nats, mean over positions."""
    return kl(raised(p).log_softmax(-1), raised(q).log_softmax(-1))


def l2_difference(
    a: Float[Tensor, "*#rows pos d_vocab"], b: Float[Tensor, "*#rows pos d_vocab"]
) -> Float[Tensor, "..."]:
    """Euclidean distance of two logit vectors, mean over positions; in logits."""
    return (raised(a) - raised(b)).norm(dim=-1).mean(-1)


def prediction_change_rate(
    a: Float[Tensor, "*#rows pos d_vocab"], b: Float[Tensor, "*#rows pos d_vocab"]
) -> Float[Tensor, "..."]:
    """Share of positions whose top-1 token differs, 0 to 1."""
    return (top_1(a) != top_1(b)).to(torch.promote_types(a.dtype, torch.float32)).mean(-1)


def top_1(logits: Float[Tensor, "*rows d_vocab"]) -> Int[Tensor, "*rows"]:
    """The token with the largest logit, the first of equals."""
    return logits.max(-1).indices  # on the CPU several times as fast as argmax


def answer_score(
    logits: Float[Tensor, "*rows pos d_vocab"], tokens: Int[Tensor, " pos"]
) -> Float[Tensor, "*rows"]:
    """Mean over the answer's tokens of the raw logit of each at the position that predicts it."""
    return at_tokens(raised(logits), tokens).mean(-1)


def answer_logprob(
    logits: Float[Tensor, "*rows pos d_vocab"], tokens: Int[Tensor, " pos"]
) -> Float[Tensor, "*rows"]:
    """Sum of the log-probabilities of the answer's tokens, in nats."""
    return at_tokens(raised(logits).log_softmax(-1), tokens).sum(-1)


def kl(
    log_p: Float[Tensor, "*#rows pos d_vocab"], log_q: Float[Tensor, "*#rows pos d_vocab"]
) -> Float[Tensor, "..."]:
    """`kl_divergence` of log-probabilities."""
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)


def logit_diff(
    logits: Float[Tensor, "*rows d_vocab"], clean: int, corrupted: int
) -> Float[Tensor, "*rows"]:
    """logit(clean) − logit(corrupted) at the one position where the two answers part."""
    values = raised(logits)
    return values[..., clean] - values[..., corrupted]


def recovery(
    patched: Float[Tensor, "*#rows"], base: Float[Tensor, "*#rows"], source: Float[Tensor, "*#rows"]
) -> Float[Tensor, "..."]:
    """(LD_patched − LD_base) / (LD_source − LD_base): 0 nothing, 1 all, in both directions."""
    return (patched - base) / (source - base)


def recovery_is_defined(
    clean: Float[Tensor, "*#rows"], corrupted: Float[Tensor, "*#rows"], min_gap: float
) -> Bool[Tensor, "..."]:
    """Whether both runs prefer their own answer and their logit differences are `min_gap` apart."""
    return (clean > 0) & (corrupted < 0) & (clean - corrupted >= min_gap)


@dataclass(frozen=True)
class AnswerLogits:
    """The logits of some runs of one pair at its answer, read with either answer forced."""

    stem_predictions: Int[Tensor, "rows stem_pos"]
    """Top-1 tokens at eot and after each stem token but the last: what the model would say there."""
    clean: Float[Tensor, "rows clean_pos d_vocab"]
    """At the positions that predict the clean answer's tokens, that answer forced."""
    corrupted: Float[Tensor, "rows corrupted_pos d_vocab"]

    def forced(self, name: Side) -> Float[Tensor, "rows pos d_vocab"]:
        """The logits with the named answer forced."""
        return self.clean if name == "clean" else self.corrupted


def sides(
    direction: Direction,
) -> tuple[Side, Side]:
    """(base, source): which side is patched into, and which the activations come from."""
    return ("corrupted", "clean") if direction == "denoise" else ("clean", "corrupted")


def says(readout: AnswerLogits, tokens: AnswerPair, name: Side) -> Bool[Tensor, " rows"]:
    """Whether the top-1 token is the named answer's at every position from eot through the answer."""
    stem = torch.tensor(tokens.stem, device=readout.clean.device, dtype=torch.long)
    answer = torch.tensor(getattr(tokens, name), device=readout.clean.device)
    in_stem = (readout.stem_predictions == stem).all(-1)
    return in_stem & (top_1(readout.forced(name)) == answer).all(-1)


def raised(logits: Tensor) -> Tensor:
    """In float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def at_tokens(
    values: Float[Tensor, "*rows pos d_vocab"], tokens: Int[Tensor, " pos"]
) -> Float[Tensor, "*rows pos"]:
    """Of each position the value of its token."""
    positions = torch.arange(len(tokens), device=values.device)
    return values[..., positions, tokens]
