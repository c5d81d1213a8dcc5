"""The metrics of a cell: what each is called, what it means, and how it is computed.

A metric of one's own is a function of `Measured`, made known by `register_metric`: sweeps then measure it, records
keep it, and figures and reports draw it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from codi_lens.choices import Direction
from codi_lens.data.answers import AnswerPair
from codi_lens.data.pairs import Side
from codi_lens.patching.answer_logits import (
    AnswerLogits,
    answer_score,
    at_tokens,
    kl,
    l2_difference,
    logit_diff,
    prediction_change_rate,
    raised,
    recovery,
    recovery_is_defined,
    says,
    sides,
)
from codi_lens.patching.plan import BASE, SOURCE
from codi_lens.patching.readout import AnswerReadout
from codi_lens.patching.settings import Settings


@dataclass(frozen=True)
class Measured:
    """The runs of one pair, read, and what metrics are made of."""

    logits: AnswerLogits
    """Of the base run, the source run and every patched run."""
    tokens: AnswerPair
    """Answer tokens of both sides."""
    base: int
    source: int
    """The runs that are patched into and taken from."""
    direction: Direction
    """Which of the two is the clean one."""
    min_gap: float
    """In logits; recovery is left undefined below this distance of clean and corrupted."""

    @property
    def base_side(self) -> Side:
        """Whose question the base run was asked."""
        return sides(self.direction)[0]

    @property
    def source_side(self) -> Side:
        """Whose question the source run was asked."""
        return sides(self.direction)[1]

    @cached_property
    def log_probs(self) -> dict[str, Float[Tensor, "runs pos d_vocab"]]:
        """With either answer forced; answers of one token are read off the same logits."""
        clean = raised(self.logits.clean).log_softmax(-1)
        if self.logits.corrupted is self.logits.clean:
            return {"clean": clean, "corrupted": clean}
        return {"clean": clean, "corrupted": raised(self.logits.corrupted).log_softmax(-1)}

    def ids(self, side: Side) -> Int[Tensor, " pos"]:
        """The tokens of a side's answer."""
        return torch.tensor(getattr(self.tokens, side), device=self.logits.clean.device)

    @cached_property
    def scores(self) -> dict[str, Float[Tensor, " runs"]]:
        """`answer_score` of either answer."""
        return {
            side: answer_score(self.logits.forced(side), self.ids(side))
            for side in ("clean", "corrupted")
        }

    @cached_property
    def logit_diff(self) -> Float[Tensor, " runs"]:
        """Where the answers part; NaN for equal answers."""
        t = self.tokens.first_difference
        if t is None:
            return raised(self.logits.clean[:, 0, 0]) * torch.nan
        return logit_diff(self.logits.clean[:, t], self.tokens.clean[t], self.tokens.corrupted[t])


Values = Float[Tensor, " runs"]


@dataclass(frozen=True)
class Metric:
    """A metric of every cell: what it is called, what it means, and how it is computed."""

    name: str
    label: str
    """What it is, with its unit, for axes and colour bars."""
    compute: Callable[[Measured], Values] | None = None
    """None: an experiment fills it in by itself."""
    signed: bool = False
    ranks: bool = False
    """Whether it is zero where a patch does nothing, so that cells can be ranked by it."""
    adds_up: bool = False
    """Whether it is also signed, so that effects can be added up in it."""
    may_be_undefined: bool = False
    """Whether it is NaN by definition for some pairs."""


METRICS: dict[str, Metric] = {}
"""Name -> metric, in the order in which they are measured."""


def register_metric(metric: Metric) -> Metric:
    """Makes a metric known; returns it."""
    METRICS[metric.name] = metric
    return metric


def cell_metrics(measured: Measured) -> dict[str, Values]:
    """All metrics of all runs of one pair; NaN where a metric is not defined for the pair."""
    return {
        name: metric.compute(measured)
        for name, metric in METRICS.items()
        if metric.compute is not None
    }


def measure(
    readout: AnswerReadout, own: Sequence[Sequence[int]], settings: Settings
) -> list[dict[str, Float[Tensor, " runs"]]]:
    """All metrics of all runs of each pair, on the CPU; the logits come and go a few rows at a time."""
    measured = []
    for pair, rows in enumerate(own):
        unpatched = [rows[BASE], rows[SOURCE]]
        others = sorted(set(rows) - set(unpatched))
        parts: list[Tensor] = []
        for chunk in readout.chunks(pair, others) if others else [[]]:
            values = cell_metrics(
                Measured(
                    readout.logits(pair, [*unpatched, *chunk]),
                    readout.answers[pair],
                    base=0,
                    source=1,
                    direction=settings.direction,
                    min_gap=settings.min_gap,
                )
            )
            stacked = torch.stack(list(values.values()))
            parts.append(stacked[:, 2:] if parts else stacked)
        found = torch.cat(parts, dim=1).cpu()
        column = {row: i for i, row in enumerate([*unpatched, *others])}
        of_runs = found[:, [column[row] for row in rows]]
        measured.append(dict(zip(values, of_runs, strict=True)))
    return measured


def _kl_to_base(m: Measured) -> Values:
    log_base = m.log_probs[m.base_side]
    return kl(log_base, log_base[m.base : m.base + 1])


def _kl_from_source(m: Measured) -> Values:
    log_source = m.log_probs[m.source_side]
    return kl(log_source[m.source : m.source + 1], log_source)


def _l2_to_base(m: Measured) -> Values:
    logits = m.logits.forced(m.base_side)
    return l2_difference(logits, logits[m.base : m.base + 1])


def _changes(m: Measured) -> Values:
    logits = m.logits.forced(m.base_side)
    return prediction_change_rate(logits, logits[m.base : m.base + 1])


def _answer_logit_diff(m: Measured) -> Values:
    return m.scores["clean"] - m.scores["corrupted"]


def _answer_logit_diff_change(m: Measured) -> Values:
    difference = _answer_logit_diff(m)
    return difference - difference[m.base]


def _recovery(m: Measured) -> Values:
    ld = m.logit_diff
    clean, corrupted = (m.source, m.base) if m.source_side == "clean" else (m.base, m.source)
    restored = recovery(ld, ld[m.base], ld[m.source])
    defined = recovery_is_defined(ld[clean], ld[corrupted], m.min_gap)
    return restored if defined else torch.full_like(restored, torch.nan)


def _logprob(side: Side) -> Callable[[Measured], Values]:
    return lambda m: at_tokens(m.log_probs[side], m.ids(side)).sum(-1)


def _flipped(m: Measured) -> Values:
    says_source = says(m.logits, m.tokens, m.source_side)
    return (says_source & ~says_source[m.base]).to(m.scores["clean"].dtype)


def _base_given(m: Measured) -> Values:
    return says(m.logits, m.tokens, m.base_side).to(m.scores["clean"].dtype)


for _metric in (
    Metric("kl_divergence", "KL(patched ‖ base), nats", _kl_to_base, ranks=True),
    Metric("kl_to_source", "KL(source ‖ patched), nats", _kl_from_source),
    Metric("l2_difference", "‖logits patched − base‖₂, logits", _l2_to_base, ranks=True),
    Metric("prediction_change_rate", "share of changed top-1 tokens", _changes, ranks=True),
    Metric("answer_logit_diff", "answer logit difference, logits", _answer_logit_diff, signed=True),
    Metric(
        "answer_logit_diff_change",
        "change of the answer logit difference, logits",
        _answer_logit_diff_change,
        signed=True,
        ranks=True,
        adds_up=True,
    ),
    Metric("clean_answer_score", "logit of the clean answer", lambda m: m.scores["clean"]),
    Metric(
        "corrupted_answer_score", "logit of the corrupted answer", lambda m: m.scores["corrupted"]
    ),
    Metric(
        "logit_diff",
        "logit difference at the first differing token, logits",
        lambda m: m.logit_diff,
        signed=True,
        may_be_undefined=True,
    ),
    Metric(
        "recovery",
        "recovery of the logit difference (0 nothing, 1 all)",
        _recovery,
        signed=True,
        ranks=True,
        adds_up=True,
        may_be_undefined=True,
    ),
    Metric("logprob_clean", "log-probability of the clean answer, nats", _logprob("clean")),
    Metric(
        "logprob_corrupted", "log-probability of the corrupted answer, nats", _logprob("corrupted")
    ),
    Metric("flipped", "share of answers flipped to the source's", _flipped, ranks=True),
    Metric("base_given", "share of answers that are the base question's own", _base_given),
    Metric("donor_given", "share of answers that are the donor's"),
):
    register_metric(_metric)
