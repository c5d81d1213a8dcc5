"""The logit lens: what the model would say if a state in the middle of the computation were its last.

Layers: each layer's output through the final norm, with its gain, and the unembedding (nostalgebraist 2020).
Thoughts: the official probe of CODI reads the final state before the projection, and the thought, which is
what the projection makes of it, through the unembedding alone: the final norm has been applied before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from codi_lens.data.answers import Answer, answer_tokens, spell
from codi_lens.data.pairs import Variant
from codi_lens.model.cache import CodiCache
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Step


@dataclass(frozen=True)
class ThoughtLens:
    """Logits read at bot and at each latent: row k belongs to thought z_k."""

    before: Float[Tensor, "thought d_vocab"]
    """Of the final state that z_k is made from."""
    after: Float[Tensor, "thought d_vocab"]
    """Of z_k itself; the last one is never fed."""


def steps_of(cache: CodiCache) -> tuple[Step, ...]:
    """The steps that a lens reads if none are named: bot, every latent, and eot where there is one."""
    latents = sorted(step for step in cache.positions if isinstance(step, int))
    end = cache.positions["eot"]
    return ("bot", *latents, *(("eot",) if end.start < end.stop else ()))


@torch.no_grad()
def logit_lens(
    codi: HookedCodi, cache: CodiCache, *, row: int = 0, steps: Sequence[Step] | None = None
) -> Float[Tensor, "layer step d_vocab"]:
    """Logits of every layer's output at every step (the last position of a step that has several).

    Args:
        codi: the model.
        cache: of `run_with_cache`, with every layer's `hook_resid_post`.
        row: of the batch.
        steps: those to read; `steps_of(cache)` if None.
    """
    return read_out(codi, residuals(codi, cache, row=row, steps=steps))


def residuals(
    codi: HookedCodi, cache: CodiCache, *, row: int = 0, steps: Sequence[Step] | None = None
) -> Float[Tensor, "layer step d_model"]:
    """What `logit_lens` reads: every layer's output at the last position of each step."""
    positions = [_last(cache, step) for step in steps or steps_of(cache)]
    return torch.stack([cache[name][row, positions] for name in resid_names(codi)])


def read_out(
    codi: HookedCodi, states: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits of states of the residual stream, as if they were the last layer's."""
    return codi.loop.unembed(codi.model.ln_final(states))


def log_shares(logits: Float[Tensor, "*any d_vocab"]) -> Float[Tensor, "*any d_vocab"]:
    """Log-probabilities, in single precision at least: half has too few digits for them."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def resid_names(codi: HookedCodi) -> list[str]:
    """The hook points of every layer's output."""
    return [f"blocks.{layer}.hook_resid_post" for layer in range(codi.model.cfg.n_layers)]


@torch.no_grad()
def thought_lens(codi: HookedCodi, cache: CodiCache, *, row: int = 0) -> ThoughtLens:
    """Logits of every thought, before and after the projection (the official probe)."""
    positions = [_last(cache, step) for step in steps_of(cache)[:-1]]
    last = cache[resid_names(codi)[-1]][row, positions]
    final = codi.model.ln_final(last[None])
    return ThoughtLens(codi.loop.unembed(final)[0], codi.loop.unembed(codi.loop.project(final))[0])


def top_tokens(
    codi: HookedCodi, logits: Float[Tensor, "row column d_vocab"], count: int = 5
) -> list[list[list[tuple[str, float]]]]:
    """[row][column] -> the most likely tokens, as text, with their probabilities."""
    shares, ids = logits.softmax(-1).topk(min(count, logits.shape[-1]))
    return [
        [
            [
                (str(codi.tokens.tokenizer.decode([token])), share)
                for token, share in zip(*cell, strict=True)
            ]
            for cell in zip(*row, strict=True)
        ]
        for row in zip(ids.tolist(), shares.tolist(), strict=True)
    ]


def intermediate_ranks(
    codi: HookedCodi, logits: Float[Tensor, "row column d_vocab"], variant: Variant
) -> dict[str, Int[Tensor, "row column"]]:
    """Rank (1: most likely) of each result on the way, and of the answer, at every cell.

    What the tokenizer cuts into several tokens is ranked by the first of them, and of two spellings by the
    better one (`first_tokens`). A variant that does not know its intermediates gives the answer's rank alone.
    """
    results = dict.fromkeys((*variant.intermediates, variant.answer))
    found = {}
    for result in results:
        found[str(result)] = rank_of(logits, first_tokens(codi, result))
    return found


def first_tokens(codi: HookedCodi, result: Answer) -> tuple[int, ...]:
    """The first token of a result behind the answer's stem and, if that is another, of the result alone.

    GPT-2's tokenizer has one token for 18 behind a blank and one for 18 behind a sign: an answer begins with the one, and
    thoughts that were taught equations say the other.
    """
    tokenizer = codi.tokens.tokenizer
    behind = answer_tokens(tokenizer, codi.config.answer_stem, result).answer[0]
    alone = tokenizer.encode(spell(result), add_special_tokens=False)[0]
    # Some tokenizers put a blank in front, as a token of its own, which any word may have.
    one_more = alone != tokenizer.unk_token_id and str(tokenizer.decode([alone])).strip()
    return (behind, alone) if one_more and alone != behind else (behind,)


def share_of(shares: Float[Tensor, "*any d_vocab"], tokens: Sequence[int]) -> Float[Tensor, "*any"]:
    """Probability of these tokens together."""
    return shares[..., list(tokens)].sum(-1)


def rank_of(
    logits: Float[Tensor, "row column d_vocab"], tokens: Sequence[int]
) -> Int[Tensor, "row column"]:
    """Rank of the best of these tokens (1: most likely) at every cell."""
    best = logits[..., list(tokens)].amax(-1, keepdim=True)
    return (logits > best).sum(-1) + 1


def _last(cache: CodiCache, step: Step) -> int:
    """The last position of a step."""
    return cache.positions[step].stop - 1
