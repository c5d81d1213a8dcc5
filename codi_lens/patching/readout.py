"""The answer of every run: one pass over what the forced answers share, a short one over the rest.

The clean and the corrupted answer are forced on every run. End tokens, stem and the answer up to the first
token that differs are fed in one pass; only answers of several tokens need a pass of their own behind it.
Final states are kept, and turned into logits a few runs at a time: over a vocabulary of 128k, the logits
of a whole sweep would be its largest tensor by far.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.data.answers import AnswerPair, contrast
from codi_lens.data.pairs import Pair
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Step
from codi_lens.model.loop_state import LoopState
from codi_lens.model.tokens import right_pad
from codi_lens.patching.answer_logits import AnswerLogits, top_1
from codi_lens.patching.engine import Ended, ThoughtsDone, feed_eot

LOGIT_BYTES = 2**26
"""Of the logits that are read at a time."""


@dataclass
class _Branch:
    """Final states of the runs that go on with one of the answers, behind what the answers share."""

    final: Float[Tensor, "runs pos d_model"] | None = None
    at: dict[int, int] = field(default_factory=dict)
    """Row of the batch -> row of `final`."""


class AnswerReadout:
    """Final states where the answers are read, of all rows in the batch.

    Attributes:
        ended: the runs behind the end of their thoughts, to go on from in other ways.
    """

    def __init__(
        self,
        codi: HookedCodi,
        ended: Ended,
        answers: Sequence[AnswerPair],
        branches: dict[str, _Branch] | None,
    ) -> None:
        self.codi = codi
        self.ended = ended
        self.answers = answers
        self._branches = branches

    def chunks(self, pair: int, runs: Sequence[int]) -> Iterator[Sequence[int]]:
        """Splits runs of a pair so that the logits of each part stay within `LOGIT_BYTES`."""
        answer = self.answers[pair]
        positions = len(answer.stem) + len(answer.clean) + len(answer.corrupted)
        # Metrics are taken in float32 at least, whatever the model computes in.
        row = positions * self.codi.model.cfg.d_vocab * max(4, self.ended.final.element_size())
        size = max(1, LOGIT_BYTES // row)
        for start in range(0, len(runs), size):
            yield runs[start : start + size]

    def logits(self, pair: int, runs: Sequence[int]) -> AnswerLogits:
        """Logits of the given runs, which are of one pair, read with either answer forced."""
        answer, loop = self.answers[pair], self.codi.loop
        index = torch.tensor(runs, dtype=torch.long, device=loop.device)
        if self._branches is None:
            logits = loop.unembed(self.ended.final[index, :1])
            none = index.new_empty((len(runs), 0))
            clean, corrupted = len(answer.clean), len(answer.corrupted)
            return AnswerLogits(
                none, logits.expand(-1, clean, -1), logits.expand(-1, corrupted, -1)
            )
        stem, shared = len(answer.stem), len(before_difference(answer)) + 1
        logits = loop.unembed(self.ended.final[index, :shared])
        common = logits[:, stem:]
        own = {}
        for name, branch in self._branches.items():
            own[name] = common
            length = len(after_difference(answer, name))
            if branch.final is not None and length:
                rows = torch.tensor([branch.at[run] for run in runs], device=loop.device)
                rest = loop.unembed(branch.final[rows, :length])
                own[name] = torch.cat([common, rest], dim=1)
        return AnswerLogits(top_1(logits[:, :stem]), own["clean"], own["corrupted"])


class Readout(ABC):
    """What counts as the answer, and where it is read; one instance each, known by its name.

    `Settings.answer_start` names one.
    """

    name: ClassVar[str]

    @abstractmethod
    def answer(self, codi: HookedCodi, pair: Pair) -> AnswerPair:
        """The tokens of both answers, behind what is forced before them."""

    @abstractmethod
    def read(
        self,
        codi: HookedCodi,
        done: ThoughtsDone,
        pairs: Sequence[int],
        answers: Sequence[AnswerPair],
    ) -> AnswerReadout:
        """Takes all runs through their answers.

        Args:
            done: runs whose thoughts are done.
            pairs: for each run, the index of its pair in `answers`.
            answers: as `answer` has them.

        Raises:
            HookNeverFired: a patch that no step reached.
        """

    def fed(self, answer: AnswerPair) -> int:
        """How many tokens are fed behind the end of the thoughts where the two answers part."""
        return len(before_difference(answer))

    @abstractmethod
    def steps(self, empty_stem: bool, last: Step) -> tuple[Step, ...]:
        """The steps at whose final states the answer is read.

        Args:
            empty_stem: whether nothing is forced in front of the answer.
            last: the step in front of the answer: "eot" for a model that has one.
        """


class BehindStem(Readout):
    """The answer behind the forced stem, with the clean and with the corrupted answer forced."""

    name = "stem"

    def answer(self, codi: HookedCodi, pair: Pair) -> AnswerPair:
        return contrast(
            codi.tokens.tokenizer,
            codi.config.answer_stem,
            pair.clean.answer,
            pair.corrupted.answer,
            codi.ids.eos,
        )

    def read(
        self,
        codi: HookedCodi,
        done: ThoughtsDone,
        pairs: Sequence[int],
        answers: Sequence[AnswerPair],
    ) -> AnswerReadout:
        return _forced(codi, done, pairs, answers)

    def steps(self, empty_stem: bool, last: Step) -> tuple[Step, ...]:
        return (last, "answer") if empty_stem else ("answer",)


class AtEot(BehindStem):
    """Everything at the last position before the stem, as the first study did; no token is forced."""

    name = "eot"

    def answer(self, codi: HookedCodi, pair: Pair) -> AnswerPair:
        return replace(super().answer(codi, pair), stem=())

    def read(
        self,
        codi: HookedCodi,
        done: ThoughtsDone,
        pairs: Sequence[int],
        answers: Sequence[AnswerPair],
    ) -> AnswerReadout:
        return AnswerReadout(codi, feed_eot(codi, done), answers, None)

    def fed(self, answer: AnswerPair) -> int:
        return 0

    def steps(self, empty_stem: bool, last: Step) -> tuple[Step, ...]:
        return (last,)


READOUTS: dict[str, Readout] = {}


def register_readout(readout: Readout) -> Readout:
    """Makes a readout known by its name; returns it."""
    READOUTS[readout.name] = readout
    return readout


for _readout in (BehindStem(), AtEot()):
    register_readout(_readout)


def _forced(
    codi: HookedCodi, done: ThoughtsDone, pairs: Sequence[int], answers: Sequence[AnswerPair]
) -> AnswerReadout:
    """One pass over what a pair's two answers share, a short one over the rest of each."""
    pair_of = dict(zip(done.batch_index, pairs, strict=True))
    own = [answers[pair_of[row]] for row in range(len(pair_of))]
    ended = feed_eot(codi, done, [before_difference(answer) for answer in own])
    branches = {}
    for name in ("clean", "corrupted"):
        rest = [after_difference(answer, name) for answer in own]
        longer = [row for row, tokens in enumerate(rest) if tokens]
        branches[name] = _Branch()
        if longer:
            final = feed(codi, ended.onward.select(longer), [rest[row] for row in longer])
            branches[name] = _Branch(final, {row: i for i, row in enumerate(longer)})
    return AnswerReadout(codi, ended, answers, branches)


def says_tokens(
    codi: HookedCodi, ended: Ended, runs: Sequence[int], tokens: Sequence[Sequence[int]]
) -> list[bool]:
    """Whether each run's top-1 token is the given one at every position, all of them forced."""
    final = ended.final[torch.tensor(runs, device=codi.loop.device), :1]
    rest = feed(codi, ended.state.select(runs), [ids[:-1] for ids in tokens])
    predicted = codi.loop.unembed(torch.cat([final, rest], dim=1)).argmax(-1).tolist()
    return [row[: len(ids)] == list(ids) for row, ids in zip(predicted, tokens, strict=True)]


def before_difference(answer: AnswerPair) -> tuple[int, ...]:
    """The tokens that both answers feed: stem and answer up to the token that differs."""
    t = len(answer.clean) - 1 if answer.first_difference is None else answer.first_difference
    return answer.stem + answer.clean[:t]


def after_difference(answer: AnswerPair, name: str) -> tuple[int, ...]:
    """The tokens that one answer goes on to feed; its last token is predicted, never fed."""
    t = answer.first_difference
    tokens: tuple[int, ...] = getattr(answer, name)
    return () if t is None else tokens[t:-1]


def feed(
    codi: HookedCodi, state: LoopState, tokens: Sequence[Sequence[int]]
) -> Float[Tensor, "rows pos d_model"]:
    """Feeds each row its tokens, right-padded; `state` goes on. Returns the final states."""
    if not any(tokens):
        return codi.loop.embed(torch.empty((len(tokens), 0), dtype=torch.long))
    padded, mask = right_pad(tokens, codi.ids.pad)
    codi.tokens.check_length(state.mask.shape[1] + padded.shape[1])
    return codi.loop.advance(state, codi.loop.embed(padded), (), mask.to(codi.loop.device))
