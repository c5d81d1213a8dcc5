"""What thoughts do: the answer after some of them, and the answer when one is exchanged."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.thoughts.found import Stop
from codi_lens.data.answers import Answer, as_stored, last_number
from codi_lens.data.judges import behind
from codi_lens.errors import UserError
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import AddressedHook, Site
from codi_lens.model.run import CodiRun


def answers_by_stop(codi: HookedCodi, question: str, count: int) -> tuple[tuple[Stop, ...], Answer]:
    """What is answered after 0 … all thoughts, and the last of these answers."""
    texts = [codi.generate(question, num_latents=k) for k in range(count + 1)]
    answers = [answer_in(codi, text) for text in texts]
    final = answers[-1]
    if final is None:
        raise UserError(
            f"the model answers {texts[-1]!r} to {question!r}, in which there is no answer"
        )

    def share(answer: Answer, latents: int) -> float:
        run = codi.run_with_hooks(question, answer, num_latents=latents)
        return float(answer_probability(codi, run)[0])

    stops = [
        Stop(text, own, None if own is None else share(own, k), share(final, k))
        for k, (text, own) in enumerate(zip(texts, answers, strict=True))
    ]
    return tuple(stops), final


def answer_in(codi: HookedCodi, text: str) -> Answer | None:
    """The number that a text ends with, or else what stands behind the stem."""
    found = last_number(text) or behind(text, codi.config.answer_stem).strip()
    return as_stored(found) if found else None


def answer_probability(codi: HookedCodi, run: CodiRun) -> Float[Tensor, " batch"]:
    """Of the forced answer's tokens behind the stem, together."""
    stem, tokens = len(codi.tokens.stem()), torch.tensor(run.answer_tokens)
    logs = run.logits[:, stem : tokens.shape[1]].double().log_softmax(-1)
    return logs.gather(-1, tokens[:, stem:, None].to(logs.device)).sum((1, 2)).exp().cpu()


def when_resampled(
    codi: HookedCodi, question: str, answer: Answer, others: Sequence[str], count: int
) -> Float[Tensor, " latent"] | None:
    """Probability of an answer when one thought is another question's, mean over these."""
    if not others:
        return None
    state = codi.think(others, count)
    thoughts = (
        torch.stack([*state.thoughts[:count]], dim=1) if count else torch.zeros(len(others), 0)
    )
    return torch.stack([when_exchanged(codi, question, answer, own) for own in thoughts]).mean(0)


def when_exchanged(
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
    return answer_probability(codi, run)
