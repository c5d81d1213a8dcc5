"""How readable known results are at every layer and step, beside what another question's states say.

What can be read off the states of a question that has another result is no evidence that the result is held there
(arXiv 2606.12689). So every map has a control: the same token, read at the same place in another question's run.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from codi_lens.analysis.lenses.logit import (
    first_tokens,
    log_shares,
    logit_lens,
    rank_of,
    resid_names,
    share_of,
    steps_of,
)
from codi_lens.analysis.lenses.tuned import TunedLens
from codi_lens.data.answers import Answer, same_answer
from codi_lens.data.donors import derange
from codi_lens.data.pairs import SIDES, Pair, Variant, side_of
from codi_lens.errors import UserError
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Step

BATCH = 64
ANSWER = "answer"
Cell = tuple[str, int, str]
"""Result, question, and whether it is read in its "own" run or in the "control"."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """One result of the questions that have it, read in their own runs and in other questions'.

    What the tokenizer cuts into several tokens is read by the first of them, and what it has two spellings for by both:
    their probabilities are added, and the better rank counts (`first_tokens`).
    """

    questions: tuple[int, ...]
    """Which of the map's questions have this result."""
    donors: tuple[int, ...]
    """Whose run stands in for each one's own in the control: there, this result begins with another token, or is not."""
    probability: Float[Tensor, "question layer step"]
    rank: Int[Tensor, "question layer step"]
    """Among all tokens; 1: most likely."""
    control_probability: Float[Tensor, "question layer step"]
    control_rank: Int[Tensor, "question layer step"]

    @property
    def gap(self) -> Float[Tensor, "layer step"]:
        """Mean probability above the control's."""
        return (self.probability - self.control_probability).mean(0)

    @property
    def best(self) -> tuple[int, int]:
        """Layer and column where the result is most readable, beyond the control."""
        layer, column = divmod(int(self.gap.argmax()), self.gap.shape[1])
        return layer, column


@dataclass(frozen=True, eq=False)
class LensMap:
    """A lens on known results: the results on the way ("v1", "v2", …) and the answer."""

    kind: str
    """"logit" or "tuned"."""
    variants: tuple[Variant, ...]
    steps: tuple[Step, ...]
    results: dict[str, Decoded]


@torch.no_grad()
def lens_map(
    codi: HookedCodi,
    questions: Sequence[Pair] | Sequence[Variant],
    *,
    lens: TunedLens | None = None,
    steps: Sequence[Step] | None = None,
    num_latents: int | None = None,
    seed: int = 0,
) -> LensMap:
    """Probability and rank of each question's results at every layer and step, with the control.

    Args:
        codi: the model.
        questions: pairs, both sides of which are asked, or single questions. Where results on the way are not known,
            the answer alone is read; one that equals the answer, as the last often does, counts as the answer.
        lens: a tuned lens; None: the logit lens.
        steps: those to read; None: bot, the latents, and eot.
        num_latents: thoughts; the model's own if None.
        seed: of the draw of other questions.

    Raises:
        UserError: no questions, or a result that begins with the same token in all of them.
    """
    variants = _variants(questions)
    tokens = _tokens(codi, variants)
    donors = {name: _donors(codi, name, variants, own, seed) for name, own in tokens.items()}
    # Row -> the cells to be read in its run, and the tokens of each.
    asked: list[list[tuple[Cell, tuple[int, ...]]]] = [[] for _ in variants]
    for name, own in tokens.items():
        for row, spellings in own.items():
            asked[row].append(((name, row, "own"), spellings))
            asked[donors[name][row]].append(((name, row, "control"), spellings))
    read: dict[Cell, tuple[Tensor, Tensor]] = {}
    for row, reading in enumerate(_read(codi, variants, lens, steps, num_latents)):
        columns, logits = reading
        probabilities = log_shares(logits).exp()
        for cell, spellings in asked[row]:
            share = share_of(probabilities, spellings)
            read[cell] = share.cpu(), rank_of(logits, spellings).cpu()
    results = {name: _decoded(read, name, donors[name]) for name in tokens}
    return LensMap("logit" if lens is None else "tuned", tuple(variants), columns, results)


def _variants(questions: Sequence[Pair] | Sequence[Variant]) -> list[Variant]:
    """The questions one by one, each once."""
    asked: list[Variant] = []
    for one in questions:
        asked += [side_of(one, side) for side in SIDES] if isinstance(one, Pair) else [one]
    if not asked:
        raise UserError("no questions; give pairs or variants, two at least")
    return list({variant.question: variant for variant in asked}.values())


def _results(variant: Variant) -> dict[str, Answer]:
    """The results of a question by name; the answer comes last."""
    on_the_way = {f"v{i + 1}": result for i, result in enumerate(variant.intermediates)}
    return {**on_the_way, ANSWER: variant.answer}


def _tokens(codi: HookedCodi, variants: Sequence[Variant]) -> dict[str, dict[int, tuple[int, ...]]]:
    """Result -> the questions that have it, unless it equals the answer, and the first tokens of theirs."""
    longest = max(variants, key=lambda variant: len(variant.intermediates))
    found: dict[str, dict[int, tuple[int, ...]]] = {name: {} for name in _results(longest)}
    for row, variant in enumerate(variants):
        for name, result in _results(variant).items():
            if name == ANSWER or not same_answer(result, variant.answer):
                found[name][row] = first_tokens(codi, result)
    return {name: own for name, own in found.items() if own}


def _donors(
    codi: HookedCodi, name: str, variants: Sequence[Variant], own: Iterable[int], seed: int
) -> dict[int, int]:
    """Question -> another one, drawn at random, where this result begins with another token, or is not."""
    results = [_results(variant).get(name) for variant in variants]
    tokens = [-1 if result is None else first_tokens(codi, result)[0] for result in results]
    if len(set(tokens)) == 1:
        (word,) = codi.tokens.words(tokens[:1])
        raise UserError(
            f"the result {name} begins with {word!r} in all {len(tokens)} questions, so that no other "
            "question's run can be its control; give more questions"
        )
    donors = derange(tokens, seed)
    return {row: donors[row] for row in own}


def _read(
    codi: HookedCodi,
    variants: Sequence[Variant],
    lens: TunedLens | None,
    steps: Sequence[Step] | None,
    num_latents: int | None,
) -> Iterator[tuple[tuple[Step, ...], Float[Tensor, "layer step d_vocab"]]]:
    """What the lens reads in each question's run, and at which steps."""
    for start in range(0, len(variants), BATCH):
        part = variants[start : start + BATCH]
        _, cache = codi.run_with_cache(
            [variant.question for variant in part],
            [variant.answer for variant in part],
            num_latents=num_latents,
            names_filter=resid_names(codi),
        )
        columns = tuple(steps or steps_of(cache))
        for row in range(len(part)):
            if lens is None:
                yield columns, logit_lens(codi, cache, row=row, steps=columns)
            else:
                yield columns, lens.logits(codi, cache, row=row, steps=columns)


def _decoded(read: dict[Cell, tuple[Tensor, Tensor]], name: str, donors: dict[int, int]) -> Decoded:
    """What was read of one result, question by question."""
    tables = (
        torch.stack([read[name, row, whose][i] for row in donors])
        for whose in ("own", "control")
        for i in (0, 1)
    )
    return Decoded(tuple(donors), tuple(donors.values()), *tables)
