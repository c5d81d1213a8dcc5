"""What a run of the loop leaves: `CodiRun`, and the pass that caches its whole sequence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.model.cache import CodiCache
from codi_lens.model.hooks import HookPlan, Step, matching
from codi_lens.model.parts import CodiParts
from codi_lens.model.tokens import right_pad

NamesFilter = str | Sequence[str] | Callable[[str], bool] | None


@dataclass(frozen=True, repr=False)
class CodiRun:
    """One run of the loop over a batch."""

    logits: Float[Tensor, "batch answer_pos d_vocab"]
    """At eot and at each answer token: `logits[:, j]` predicts answer token j (stem included); what
    follows a row's own answer in a batch of unequal ones is padding."""
    final_states: Float[Tensor, "batch latents_plus_1 d_model"]
    """After the final norm, at bot and at each latent step: what the projection reads."""
    thoughts: Float[Tensor, "batch latents_plus_1 d_model"]
    """The projected `final_states`: z_0 … z_N. z_N is never fed. What a hook on `hook_embed` puts in a
    thought's place at a latent step is not shown here."""
    answer_tokens: tuple[tuple[int, ...], ...]

    def __repr__(self) -> str:
        rows, positions, d_vocab = self.logits.shape
        return (
            f"CodiRun({rows} batch rows, {self.thoughts.shape[1] - 1} latent steps, "
            f"logits [{rows}, {positions}, {d_vocab}])"
        )


def cached_pass(
    codi: CodiParts,
    questions: Sequence[str],
    thoughts: Float[Tensor, "batch latent d_model"],
    answers: Sequence[Sequence[int]],
    plan: HookPlan,
    names_filter: NamesFilter,
) -> tuple[Float[Tensor, "batch pos d_vocab"], CodiCache]:
    """One pass over question, bot, thoughts, end tokens and answer: its logits and its cache."""
    loop, end = (
        codi.loop,
        torch.tensor(codi.tokens.end(), dtype=torch.long).expand(len(answers), -1),
    )
    prompt, prompt_mask = codi.tokens.prompts(questions)
    tokens, answer_mask = right_pad(answers, codi.ids.pad)
    parts = [loop.embed(prompt), thoughts, loop.embed(end), loop.embed(tokens)]
    lengths = [part.shape[1] for part in parts]
    between = torch.ones((len(answers), lengths[1] + lengths[2]), dtype=torch.long)
    mask = torch.cat([prompt_mask, between, answer_mask], dim=1).to(loop.device)
    names = _chosen(list(loop.backend.hook_names), names_filter)
    activations, caching, _ = codi.model.get_caching_hooks(names)
    positions = step_positions(*lengths)
    hooks = [*plan.over(positions), *caching]
    final = loop.advance(loop.start(prompt[:, -1:]), torch.cat(parts, dim=1), hooks, mask)
    logits = loop.unembed(final, hooks)
    return logits, CodiCache(activations, codi.model, positions, mask)


def _chosen(hook_names: list[str], names_filter: NamesFilter) -> list[str]:
    """The hook points to cache; a name or filter that matches none is refused."""
    if names_filter is None:
        return hook_names
    single = isinstance(names_filter, str) or callable(names_filter)
    wanted = [names_filter] if single else names_filter
    return [name for names in wanted for name in matching(hook_names, names)]  # type: ignore[union-attr,arg-type]


def step_positions(prompt: int, latents: int, end: int, answer: int) -> dict[Step, slice]:
    """Slices of the position axis, from the lengths of the parts; bot is the prompt's last."""
    positions: dict[Step, slice] = {
        "prompt": slice(0, prompt - 1),
        "bot": slice(prompt - 1, prompt),
    }
    positions |= {k: slice(prompt + k, prompt + k + 1) for k in range(latents)}
    start = prompt + latents
    positions["eot"] = slice(start, start + end)
    positions["answer"] = slice(start + end, start + end + answer)
    return positions
