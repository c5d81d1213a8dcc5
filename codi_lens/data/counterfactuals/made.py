"""What comes of making pairs: those made, those refused; and what a tokenizer may ask of them."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from codi_lens.data.answers import Tokenizer, answer_tokens
from codi_lens.data.counterfactuals.reasons import Reason
from codi_lens.data.pairs import SIDES, Pair, side_of
from codi_lens.errors import UserError


@dataclass(frozen=True)
class Refused:
    """A problem that gives no pair: its index in the data set, and why."""

    id: int
    reason: Reason


@dataclass(frozen=True)
class Made:
    """The pairs, and the problems that give none."""

    pairs: tuple[Pair, ...]
    refused: tuple[Refused, ...] = ()

    @property
    def counts(self) -> dict[Reason, int]:
        """Reason -> how many problems were refused for it, most frequent first."""
        return dict(Counter(one.reason for one in self.refused).most_common())

    def sample(self, count: int, seed: int) -> "Made":
        """So many of the pairs, drawn at random, in their order.

        Raises:
            UserError: there are not so many.
        """
        if count > len(self.pairs):
            raise UserError(
                f"{count} pairs were asked for, there are {len(self.pairs)}; ask for fewer"
            )
        chosen = random.Random(seed).sample(range(len(self.pairs)), count)
        return replace(self, pairs=tuple(self.pairs[index] for index in sorted(chosen)))


@dataclass(frozen=True)
class Fit:
    """What pairs must be to a tokenizer."""

    tokenizer: Tokenizer
    single_tokens: bool = False
    """Answers and intermediates are one token each, behind the stem."""
    same_length: bool = False
    """Both questions have as many tokens."""
    stem: str = "The answer is: "

    def misfit(self, pair: Pair) -> Reason | None:
        """Why a pair is not that; None if it is."""
        sides = [side_of(pair, side) for side in SIDES]
        results = [result for side in sides for result in (*side.intermediates, side.answer)]
        if self.single_tokens and any(
            len(answer_tokens(self.tokenizer, self.stem, result).answer) > 1 for result in results
        ):
            return Reason.NOT_SINGLE_TOKENS
        lengths = {
            len(self.tokenizer.encode(side.question, add_special_tokens=False)) for side in sides
        }
        return Reason.OTHER_LENGTH if self.same_length and len(lengths) > 1 else None


def fitting(pairs: Iterable[Pair], fit: Fit | None) -> Made:
    """The pairs that a tokenizer suits, and why not the others."""
    why = {pair.pair_id: (pair, fit and fit.misfit(pair)) for pair in pairs}
    return Made(
        tuple(pair for pair, misfit in why.values() if misfit is None),
        tuple(Refused(pair_id, misfit) for pair_id, (_, misfit) in why.items() if misfit),
    )
