"""One question, thought by thought: what each says, what it looks at, and what it does.

A column belongs to a step: bot, every latent (where thought k is fed), and eot, where the answer is read. The final
state of a step is what the next thought is made of, so the last layer of a column says what the next thought says.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from codi_lens.analysis.lenses import intermediate_ranks, logit_lens, steps_of
from codi_lens.data.answers import Answer, answer_tokens, as_stored, last_number
from codi_lens.data.judges import behind
from codi_lens.data.pairs import Pair, Variant
from codi_lens.errors import UserError
from codi_lens.model.cache import CodiCache
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import AddressedHook, Site, Step
from codi_lens.model.run import CodiRun
from codi_lens.patching.api import patch_positions
from codi_lens.patching.result import Sweep
from codi_lens.patching.settings import THOUGHT

TOP = 5
"""Tokens that are kept of each read-out."""
OTHERS, TRIES = 4, 40
"""Questions of the controls, and how many are drawn to find them."""
NUMBER = re.compile(r"\d+")
Lens = Callable[[HookedCodi, CodiCache], Float[Tensor, "layer step d_vocab"]]
"""A read-out of every layer at every step; see `analysis.lenses`."""


@dataclass(frozen=True)
class Token:
    """A token that a read-out finds likely."""

    text: str
    share: float
    """Its probability."""
    control: float | None
    """Its probability in the same read-out on other questions, on average."""


@dataclass(frozen=True)
class Stop:
    """What is answered when the loop is cut after some thoughts."""

    text: str
    answer: Answer | None
    """In that text; None where there is none in it."""
    own: float | None
    """Its probability."""
    final: float
    """Probability of the answer that all thoughts lead to."""


@dataclass(frozen=True)
class Result:
    """A number that is known to be on the way, or the answer, in every read-out."""

    value: Answer
    share: Float[Tensor, "layer step"]
    """Probability of its first token."""
    rank: Int[Tensor, "layer step"]
    """1: most likely."""
    control: Float[Tensor, "layer step"] | None
    """Its probability in the same read-out on other questions, on average."""

    @property
    def readable(self) -> tuple[int, int] | None:
        """The first column, and the lowest layer there, in which it is the most likely token; None if nowhere."""
        found = (self.rank.T == 1).nonzero()
        return None if not len(found) else (int(found[0, 1]), int(found[0, 0]))


@dataclass(frozen=True)
class Reading:
    """What a lens reads at every layer and step."""

    said: tuple[tuple[tuple[Token, ...], ...], ...]
    """[layer][step] -> the most likely tokens."""
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Thoughts:
    """A question as the model thinks about it; made by `read_thoughts`."""

    model: str
    question: str
    others: tuple[str, ...]
    """The questions of the controls."""
    expected: Answer | None
    """The right answer, where it is known."""
    answer: Answer
    """What the model says."""
    labels: tuple[str, ...]
    """Of the positions up to the answer."""
    steps: tuple[Step, ...]
    positions: tuple[int, ...]
    """Of the steps."""
    prompt: int
    """Positions of the question."""
    readings: Mapping[str, Reading]
    """By lens."""
    attention: Float[Tensor, "layer head step pos"]
    zero: Float[Tensor, " latent"]
    """Probability of the answer when a thought is set to zero."""
    resample: Float[Tensor, " latent"] | None
    """The same when it is another question's, on average."""
    stops: tuple[Stop, ...]
    """After 0, 1, … all thoughts."""
    recovery: Sweep | None
    """Of a pair: every layer, and the thought, patched at every latent."""


@torch.no_grad()
def read_thoughts(
    codi: HookedCodi,
    question: str | Pair,
    *,
    tuned: Lens | None = None,
    others: Sequence[str] | None = None,
    num_latents: int | None = None,
) -> Thoughts:
    """Reads one question.

    Args:
        codi: the model.
        question: to ask; or a pair, whose clean question is asked and patched into the corrupted one.
        tuned: a trained lens, to read by beside the logit lens.
        others: the questions of the controls; the same question with other numbers if None.
        num_latents: thoughts; the model's own number if None.

    Raises:
        UserError: a question that the model cannot be asked, or an answer without a spelling.
    """
    pair = question if isinstance(question, Pair) else None
    asked = pair.clean if pair else Variant(str(question), "?")
    count = codi.num_latents(num_latents)
    stops, answer = _stops(codi, asked.question, count)
    if others is None:
        others = other_numbers(codi, asked.question)
    cache = _cache(codi, asked.question, answer, count)
    there = [_cache(codi, other, None, count) for other in others]
    steps = steps_of(cache)
    positions = [cache.positions[step].stop - 1 for step in steps]
    labels = codi.to_str_tokens(asked.question, answer, num_latents=count)
    known = (*asked.intermediates, *((asked.answer,) if pair else ()), answer)
    lenses = {"logit lens": logit_lens} | ({"tuned lens": tuned} if tuned else {})
    patterns = [cache["pattern", layer][0] for layer in range(codi.model.cfg.n_layers)]
    return Thoughts(
        codi.name,
        asked.question,
        tuple(others),
        asked.answer if pair else None,
        answer,
        tuple(labels[: positions[-1] + 1]),
        steps,
        tuple(positions),
        len(codi.tokens.question(asked.question)),
        {name: _reading(codi, lens, cache, there, known) for name, lens in lenses.items()},
        torch.stack(patterns)[:, :, positions, : positions[-1] + 1],
        _after(codi, asked.question, answer, torch.zeros(count, codi.model.cfg.d_model)),
        _resampled(codi, asked.question, answer, others, count),
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
    lens: Lens,
    cache: CodiCache,
    others: Sequence[CodiCache],
    known: Sequence[Answer],
) -> Reading:
    own = lens(codi, cache)
    there = [lens(codi, other).softmax(-1) for other in others]
    control = torch.stack(there).mean(0) if there else None
    return Reading(_said(codi, own, control), _results(codi, own, control, known))


def _said(
    codi: HookedCodi,
    own: Float[Tensor, "layer step d_vocab"],
    control: Float[Tensor, "layer step d_vocab"] | None,
) -> tuple[tuple[tuple[Token, ...], ...], ...]:
    shares, ids = own.softmax(-1).topk(min(TOP, own.shape[-1]))
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
    asked = Variant("", next(iter(values)), (), tuple(values))  # type: ignore[arg-type]
    ranks, shares = intermediate_ranks(codi, own, asked), own.softmax(-1)

    def result(value: Answer) -> Result:
        first = answer_tokens(codi.tokens.tokenizer, codi.config.answer_stem, value).answer[0]
        there = None if control is None else control[..., first]
        return Result(value, shares[..., first], ranks[str(value)], there)

    return tuple(map(result, values))


def _stops(codi: HookedCodi, question: str, count: int) -> tuple[tuple[Stop, ...], Answer]:
    """What is answered after 0 … all thoughts, and the last of these answers."""
    texts = [codi.generate(question, num_latents=k) for k in range(count + 1)]
    answers = [_answer_in(codi, text) for text in texts]
    final = answers[-1]
    if final is None:
        raise UserError(
            f"the model answers {texts[-1]!r} to {question!r}, in which there is no answer"
        )

    def share(answer: Answer, latents: int) -> float:
        run = codi.run_with_hooks(question, answer, num_latents=latents)
        return float(_probability(codi, run)[0])

    stops = [
        Stop(text, own, None if own is None else share(own, k), share(final, k))
        for k, (text, own) in enumerate(zip(texts, answers, strict=True))
    ]
    return tuple(stops), final


def _answer_in(codi: HookedCodi, text: str) -> Answer | None:
    """The number that a text ends with, or else what stands behind the stem."""
    found = last_number(text) or behind(text, codi.config.answer_stem).strip()
    return as_stored(found) if found else None


def _probability(codi: HookedCodi, run: CodiRun) -> Float[Tensor, " batch"]:
    """Of the forced answer's tokens behind the stem, together."""
    stem, tokens = len(codi.tokens.stem()), torch.tensor(run.answer_tokens)
    logs = run.logits[:, stem : tokens.shape[1]].double().log_softmax(-1)
    return logs.gather(-1, tokens[:, stem:, None].to(logs.device)).sum((1, 2)).exp().cpu()


def _resampled(
    codi: HookedCodi, question: str, answer: Answer, others: Sequence[str], count: int
) -> Float[Tensor, " latent"] | None:
    """Probability of an answer when one thought is another question's, mean over these."""
    if not others:
        return None
    state = codi.think(others, count)
    thoughts = (
        torch.stack([*state.thoughts[:count]], dim=1) if count else torch.zeros(len(others), 0)
    )
    return torch.stack([_after(codi, question, answer, own) for own in thoughts]).mean(0)


def _after(
    codi: HookedCodi, question: str, answer: Answer, values: Float[Tensor, "latent d_model"]
) -> Float[Tensor, " latent"]:
    """Probability of an answer when one thought is exchanged; all side by side, a row each."""
    count = len(values)
    if not count:
        return torch.zeros(0)

    def put(k: int) -> AddressedHook:
        def hook_fn(activation: Tensor, hook: object) -> Tensor:
            changed = activation.clone()
            changed[k] = values[k]
            return changed

        return Site("hook_embed", k), hook_fn

    asked, hooks = [question] * count, [put(k) for k in range(count)]
    run = codi.run_with_hooks(asked, [answer] * count, fwd_hooks=hooks, num_latents=count)
    return _probability(codi, run)


def other_numbers(codi: HookedCodi, question: str, count: int = OTHERS) -> tuple[str, ...]:
    """The same question with other numbers of as many digits, `count` times; none if it has no numbers."""
    draw, found = random.Random(question), dict[str, None]()

    def another(number: re.Match[str]) -> str:
        lowest = 10 ** (len(number[0]) - 1)
        while (drawn := draw.randrange(lowest, 10 * lowest)) == int(number[0]):
            pass
        return str(drawn)

    for _ in range(TRIES if NUMBER.search(question) else 0):
        other = NUMBER.sub(another, question)
        # A tokenizer of few words may not know every number.
        with suppress(UserError):
            codi.tokens.question(other)
            found[other] = None
    return tuple(found)[:count]
