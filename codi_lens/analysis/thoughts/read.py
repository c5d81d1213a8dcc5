"""One question, thought by thought: what each says, what it looks at, and what it does.

A column belongs to a step: bot, every latent (where thought k is fed), and eot, behind which the answer begins. The final
state of a step is what the next thought is made of, so the last layer of a column says what the next thought says.
"""

import random
import re
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.attention import attention_of
from codi_lens.analysis.lenses import TunedLens, intermediate_ranks, logit_lens, steps_of
from codi_lens.analysis.lenses.logit import first_tokens, log_shares, share_of
from codi_lens.analysis.thoughts.effects import (
    answer_in,
    answers_by_stop,
    when_exchanged,
    when_resampled,
)
from codi_lens.analysis.thoughts.found import Reading, Result, Thoughts, Token
from codi_lens.data.answers import Answer, as_stored, same_answer
from codi_lens.data.pairs import Pair, Variant
from codi_lens.errors import UserError
from codi_lens.model.cache import CodiCache
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.api import patch_positions
from codi_lens.patching.result import Sweep
from codi_lens.patching.settings import THOUGHT

TOP = 5
"""Tokens that are kept of each read-out."""
OTHERS, TRIES = 4, 40
"""Questions of the controls, and how many are drawn to find them."""
NUMBER = re.compile(r"\d+")


@torch.no_grad()
def read_thoughts(
    codi: HookedCodi,
    question: str | Pair,
    *,
    tuned: TunedLens | None = None,
    others: Sequence[str] | None = None,
    num_latents: int | None = None,
) -> Thoughts:
    """Reads one question.

    Args:
        codi: the model.
        question: to ask; or a pair, whose clean question is asked and patched into the corrupted one.
        tuned: a trained lens, to read by beside the logit lens.
        others: the questions of the controls; the same question with other numbers, where the model answers otherwise,
            if None.
        num_latents: thoughts; the model's own number if None.

    Raises:
        UserError: a question that the model cannot be asked, or an answer without a spelling.
    """
    pair = question if isinstance(question, Pair) else None
    asked = pair.clean if pair else Variant(str(question), "?")
    count = codi.num_latents(num_latents)
    stops, answer = answers_by_stop(codi, asked.question, count)
    if others is None:
        others = other_numbers(codi, asked.question, answer, num_latents=count)
    cache = _cache(codi, asked.question, answer, count)
    there = [_cache(codi, other, None, count) for other in others]
    steps = steps_of(cache)
    known = (*asked.intermediates, *((asked.answer,) if pair else ()), answer)
    lenses = {"logit lens": logit_lens} | ({"tuned lens": tuned.logits} if tuned else {})
    return Thoughts(
        codi.name,
        asked.question,
        tuple(others),
        asked.answer if pair else None,
        answer,
        steps,
        {name: _reading(codi, lens, cache, there, known) for name, lens in lenses.items()},
        attention_of(codi, cache, asked.question, answer, steps=steps),
        when_exchanged(codi, asked.question, answer, torch.zeros(count, codi.model.cfg.d_model)),
        when_resampled(codi, asked.question, answer, others, count),
        stops,
        None if pair is None else _recovery(codi, pair, count),
    )


def _recovery(codi: HookedCodi, pair: Pair, count: int) -> Sweep:
    rows = [THOUGHT, *range(codi.model.cfg.n_layers)]
    return patch_positions(codi, [pair], layers=rows, num_latents=count)


def _cache(codi: HookedCodi, question: str, answer: Answer | None, count: int) -> CodiCache:
    def kept(name: str) -> bool:
        return name.endswith(("hook_resid_post", "attn.hook_pattern"))

    return codi.run_with_cache(question, answer, num_latents=count, names_filter=kept)[1]


def _reading(
    codi: HookedCodi,
    lens: Callable[[HookedCodi, CodiCache], Float[Tensor, "layer step d_vocab"]],
    cache: CodiCache,
    others: Sequence[CodiCache],
    known: Sequence[Answer],
) -> Reading:
    own = log_shares(lens(codi, cache))
    there = [log_shares(lens(codi, other)).exp() for other in others]
    control = torch.stack(there).mean(0) if there else None
    return Reading(_said(codi, own, control), _results(codi, own, control, known))


def _said(
    codi: HookedCodi,
    own: Float[Tensor, "layer step d_vocab"],
    control: Float[Tensor, "layer step d_vocab"] | None,
) -> tuple[tuple[tuple[Token, ...], ...], ...]:
    shares, ids = own.exp().topk(min(TOP, own.shape[-1]))
    there = None if control is None else control.gather(-1, ids).tolist()
    decode = codi.tokens.tokenizer.decode
    return tuple(
        tuple(
            tuple(
                Token(str(decode([i])), share, None if there is None else there[layer][step][place])
                for place, (i, share) in enumerate(zip(*cell, strict=True))
            )
            for step, cell in enumerate(zip(*row, strict=True))
        )
        for layer, row in enumerate(zip(ids.tolist(), shares.tolist(), strict=True))
    )


def _results(
    codi: HookedCodi,
    own: Float[Tensor, "layer step d_vocab"],
    control: Float[Tensor, "layer step d_vocab"] | None,
    known: Sequence[Answer],
) -> tuple[Result, ...]:
    """The results that are known, each once."""
    values = dict.fromkeys(map(as_stored, known))
    asked = Variant("", next(iter(values)), (), tuple(values))
    ranks, shares = intermediate_ranks(codi, own, asked), own.exp()

    def result(value: Answer) -> Result:
        first = first_tokens(codi, value)
        there = None if control is None else share_of(control, first)
        return Result(value, share_of(shares, first), ranks[str(value)], there)

    return tuple(map(result, values))


def other_numbers(
    codi: HookedCodi, question: str, answer: Answer, *, num_latents: int | None = None
) -> tuple[str, ...]:
    """The same question with other numbers of as many digits, to which the model says another answer; four, or fewer.

    What is read where the answer is the same would be no control. None if the question has no numbers.
    """
    draw, found = random.Random(question), dict[str, None]()

    def another(number: re.Match[str]) -> str:
        lowest = 10 ** (len(number[0]) - 1)
        while (drawn := draw.randrange(lowest, 10 * lowest)) == int(number[0]):
            pass
        return str(drawn)

    for _ in range(TRIES if NUMBER.search(question) else 0):
        if len(found) == OTHERS:
            break
        other = NUMBER.sub(another, question)
        # A tokenizer of few words may not know every number.
        with suppress(UserError):
            said = answer_in(codi, codi.generate(other, num_latents=num_latents))
            if said is None or not same_answer(said, answer):
                found[other] = None
    return tuple(found)
