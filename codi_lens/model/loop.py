"""The latent-thought loop of CODI (Shen et al., arXiv 2502.21074) and its kin: the only one in this project.

    prompt → bot → z_0 = prj(h) → feed z_0 → z_1 = prj(h) → … → feed z_{N-1} → eot → answer

h is the final state at the last position, after the final norm with its gain. Every step is one forward
pass on the key/value cache, so a hook at a step sees exactly that step's positions: the prompt's
[batch, pos, …], one position for bot and for each latent, the end tokens, the answer's. At every step the
pass begins with `hook_embed`, which at a latent step holds the thought that is fed.

Batches are left-padded. The attention mask is passed whole at every step, padding included: positions
follow it, and no later step attends to padding, so that a padded batch equals batch 1.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from codi_lens.errors import set_once
from codi_lens.model.backend import NOTHING, Backend, Hooks
from codi_lens.model.hooks import AddressedHook, HookPlan, Step
from codi_lens.model.knockouts import hidden_keys
from codi_lens.model.loop_state import LoopState
from codi_lens.model.prefix_cache import SharedPrefixCache


class LatentLoop:
    """Drives a transformer and its projection through prompt, thoughts and answer."""

    def __init__(self, backend: Backend, projection: nn.Module | None) -> None:
        self.backend = backend
        self.projection = projection

    def __setattr__(self, name: str, value: object) -> None:
        set_once(self, name, value)

    @property
    def device(self) -> torch.device:
        return self.backend.device

    def to(self, where: torch.device | torch.dtype) -> None:
        """Moves model and projection to a device, or changes their dtype."""
        self.backend.to(where)
        if self.projection is not None:
            self.projection.to(where)

    def plan(
        self,
        fwd_hooks: Iterable[AddressedHook],
        num_latents: int,
        bwd_hooks: Iterable[AddressedHook] = (),
    ) -> HookPlan:
        """The hooks of a run with `num_latents` thoughts; see `HookPlan`."""
        return HookPlan(self.backend.hook_names, fwd_hooks, num_latents, bwd_hooks)

    def start(self, bot: Int[Tensor, "batch 1"], *, shared: bool = False) -> LoopState:
        """The empty state of as many rows as there are last tokens; `shared`: as `read_to_share` needs it."""
        bot = bot.to(self.device)
        mask = torch.zeros((len(bot), 0), dtype=torch.long, device=self.device)
        return LoopState(self.backend.empty_cache(len(bot), shared=shared), mask, bot)

    def advance(
        self,
        state: LoopState,
        embeddings: Float[Tensor, "batch new d_model"],
        hooks: Hooks = (),
        mask: Int[Tensor, "batch new"] | None = None,
        steps: Sequence[Step] | None = None,
    ) -> Float[Tensor, "batch new d_model"]:
        """One forward pass over new positions; `state` grows by them. Returns their final states.

        The unembedding is left out: a latent step needs none. `steps`: of the new positions; None: the answer's.
        """
        new = embeddings.shape[1]
        answer: Step = "answer"
        state.steps = (*state.steps, *([answer] * new if steps is None else steps))
        if mask is None:
            mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=self.device)
        state.mask = torch.cat([state.mask, mask], dim=1)
        blind = any(state.knockouts)
        hidden = hidden_keys(state.knockouts, state.steps, new, self.device) if blind else NOTHING
        return self.backend.forward(embeddings, state.mask, state.cache, hooks, hidden)

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Input embeddings of tokens."""
        return self.backend.embed(tokens)

    def unembed(
        self, final: Float[Tensor, "... d_model"], hooks: Hooks = ()
    ) -> Float[Tensor, "... d_vocab"]:
        """Logits of final states (which carry the final norm already)."""
        return self.backend.unembed(final, hooks)

    def project(self, final: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The next thought of a final state."""
        return final if self.projection is None else self.projection(final)

    def read(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Int[Tensor, "batch pos"],
        plan: HookPlan | None = None,
    ) -> LoopState:
        """Step `prompt`: the left-padded prompt up to, and without, its last token."""
        state = self.start(tokens[:, -1:])
        self._read(state, tokens[:, :-1], mask[:, :-1], _at(plan, "prompt"))
        return state

    def read_to_share(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Int[Tensor, "batch pos"],
        *,
        through_bot: bool = False,
    ) -> LoopState:
        """As `read`, without hooks; rows of the state can be selected and repeated, its prompts shared.

        `through_bot`: the prompt's last token is fed in the same pass, so that step `bot` is done.

        Raises:
            UserError: the model has attention of a kind that this is not implemented for.
        """
        state = self.start(tokens[:, -1:], shared=True)
        end = tokens.shape[1] if through_bot else -1
        final = self._read(
            state, tokens[:, :end], mask[:, :end], last="bot" if through_bot else "prompt"
        )
        if through_bot:
            self._think(state, final)
        assert isinstance(state.cache, SharedPrefixCache)
        return replace(state, cache=state.cache.as_prefix())

    def _read(
        self,
        state: LoopState,
        tokens: Int[Tensor, "batch pos"],
        mask: Int[Tensor, "batch pos"],
        hooks: Hooks = (),
        last: Step = "prompt",
    ) -> Float[Tensor, "batch pos d_model"]:
        embeddings = self.embed(tokens)
        steps: list[Step] = [*["prompt"] * (tokens.shape[1] - 1), last]  # type: ignore[list-item]
        # A question of one token, with nothing behind it, has no position in front of its last.
        return (
            self.advance(state, embeddings, hooks, mask.to(self.device), steps)
            if tokens.shape[1]
            else embeddings
        )

    def begin(self, state: LoopState, plan: HookPlan | None = None) -> LoopState:
        """Step `bot`, which yields z_0. Returns `state`."""
        hooks = _at(plan, "bot")
        self._think(state, self.advance(state, self.embed(state.bot), hooks, steps=["bot"]))
        return state

    def think(self, state: LoopState, num_latents: int, plan: HookPlan | None = None) -> LoopState:
        """The latent steps: each feeds the last thought and adds the next. Returns `state`."""
        for step in range(num_latents):
            self.latent_step(state, step, plan)
        return state

    def latent_step(self, state: LoopState, step: int, plan: HookPlan | None = None) -> LoopState:
        """One latent step, called `step` in the plan. Returns `state`."""
        # A copy is fed: a hook that writes in place must not reach the thoughts that are kept.
        fed = state.thoughts[-1][:, None].clone()
        self._think(state, self.advance(state, fed, _at(plan, step), steps=[step]))
        return state

    def _think(self, state: LoopState, final: Float[Tensor, "batch pos d_model"]) -> None:
        state.final_states.append(final[:, -1])
        state.thoughts.append(self.project(final[:, -1]))

    def end(
        self,
        state: LoopState,
        end: Sequence[int],
        tokens: Int[Tensor, "batch new"],
        mask: Int[Tensor, "batch new"],
        hooks: Hooks = (),
    ) -> Float[Tensor, "batch new_plus_1 d_model"]:
        """Step `eot`, and in the same pass the tokens that follow it (right-padded where `mask` is 0).

        Args:
            end: ids of the tokens between thoughts and answer. If there are none, there is no such step,
                and the answer begins at the last thought.

        Returns:
            Final states at the last of `end`, and at each token behind it.
        """
        before = state.final_states[-1][:, None]
        ends = torch.tensor(list(end), dtype=torch.long).expand(len(tokens), -1)
        fed = torch.cat([ends, tokens.cpu()], dim=1)
        if not fed.shape[1]:
            return before
        seen = torch.cat([torch.ones_like(ends), mask.cpu()], dim=1).to(self.device)
        steps: list[Step] = [*(["eot"] * len(end)), *(["answer"] * tokens.shape[1])]  # type: ignore[list-item]
        final = self.advance(state, self.embed(fed), hooks, seen, steps)
        return final[:, len(end) - 1 :] if len(end) else torch.cat([before, final], dim=1)

    def feed_tokens(
        self,
        state: LoopState,
        tokens: Int[Tensor, "batch new"],
        hooks: Hooks = (),
        mask: Int[Tensor, "batch new"] | None = None,
    ) -> Float[Tensor, "batch new d_vocab"]:
        """Feeds tokens (right-padded where `mask` is 0) and returns the logits after each."""
        mask = None if mask is None else mask.to(self.device)
        final = self.advance(state, self.embed(tokens), hooks, mask)
        return self.unembed(final, hooks)

    def decode(
        self,
        state: LoopState,
        logits: Float[Tensor, "batch d_vocab"],
        *,
        stop: int,
        forbidden: int | None,
        max_new_tokens: int,
        plan: HookPlan | None = None,
        kept: list[Float[Tensor, "batch d_vocab"]] | None = None,
    ) -> list[list[int]]:
        """Step `answer`, greedily, from the logits that predict its first token.

        `stop` (eos) ends a row's answer and is not part of it; the `forbidden` token is never
        chosen (eot, in CODI's own code). The logits after each token are appended to `kept`.
        """
        answers: list[list[int]] = [[] for _ in range(len(state.mask))]
        open_rows = torch.ones(len(answers), dtype=torch.bool, device=self.device)
        for _ in range(max_new_tokens):
            if forbidden is not None:
                logits = logits.clone()
                logits[:, forbidden] = -torch.inf
            chosen = logits.argmax(dim=-1)
            open_rows &= chosen != stop
            if not open_rows.any():
                break
            for row in open_rows.nonzero()[:, 0].tolist():
                answers[row].append(int(chosen[row]))
            logits = self.feed_tokens(state, chosen[:, None], _at(plan, "answer"))[:, -1]
            if kept is not None:
                kept.append(logits)
        return answers


def _at(plan: HookPlan | None, step: int | str) -> Hooks:
    return () if plan is None else plan.at(step)  # type: ignore[arg-type]
