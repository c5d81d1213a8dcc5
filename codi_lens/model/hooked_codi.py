"""`HookedCodi`: a CODI model to generate with, to look into and to intervene on."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from codi_lens.data.answers import Answer
from codi_lens.errors import UserError, whole_number
from codi_lens.model.cache import CodiCache
from codi_lens.model.hooks import AddressedHook, HookPlan, Step
from codi_lens.model.loop import LoopState
from codi_lens.model.parts import CodiParts
from codi_lens.model.tokens import left_pad, right_pad

DECODED = 32
"""Tokens of a greedy answer, at most, where nothing else is said."""


@dataclass(frozen=True)
class CodiRun:
    """One run of the loop over a batch, the answer given (teacher-forced)."""

    logits: Float[Tensor, "batch answer_pos d_vocab"]
    """At eot and at each answer token: `logits[:, j]` predicts answer token j (stem included); what
    follows a row's own answer in a batch of unequal ones is padding."""
    final_states: Float[Tensor, "batch latents_plus_1 d_model"]
    """After the final norm, at bot and at each latent step: what the projection reads."""
    thoughts: Float[Tensor, "batch latents_plus_1 d_model"]
    """The projected `final_states`: z_0 … z_N. z_N is never fed. What a hook on `hook_embed` puts in a
    thought's place at a latent step is not shown here."""
    answer_tokens: tuple[tuple[int, ...], ...]


class HookedCodi(CodiParts):
    """A CODI model to generate with, to look into and to intervene on; its parts are those of `CodiParts`."""

    def read(
        self, questions: Sequence[str], plan: HookPlan | None = None, *, behind: int = 0
    ) -> LoopState:
        """Runs the prompts, left-padded; returns the state before bot.

        `behind`: positions that are to follow the prompt, which the context must have room for.
        """
        tokens, mask = self._prompts(questions, behind)
        return self.loop.read(tokens[:, :-1], mask[:, :-1], plan)

    def read_to_share(self, questions: Sequence[str], *, through_bot: bool = False) -> LoopState:
        """As `read`, or on through bot; rows of the state can be selected and repeated."""
        tokens, mask = self._prompts(questions)
        end = tokens.shape[1] if through_bot else -1
        return self.loop.read_to_share(tokens[:, :end], mask[:, :end], through_bot=through_bot)

    def _prompts(
        self, questions: Sequence[str], behind: int = 0
    ) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
        tokens, mask = self.tokens.prompts(questions)
        self.tokens.check_length(tokens.shape[1] + behind)
        return tokens, mask

    def think(
        self,
        questions: Sequence[str],
        num_latents: int,
        plan: HookPlan | None = None,
        *,
        behind: int = 0,
    ) -> LoopState:
        """Runs the prompts, bot and the thoughts; returns the state before eot.

        `behind`: positions that are to follow the thoughts, which the context must have room for.
        """
        count = self.num_latents(num_latents)
        state = self.read(_batch(questions), plan, behind=count + behind)
        return self.loop.think(self.loop.begin(state, self.ids.bot, plan), count, plan)

    def generate(
        self,
        questions: str | Sequence[str],
        *,
        num_latents: int | None = None,
        max_new_tokens: int = DECODED,
        fwd_hooks: Iterable[AddressedHook] = (),
    ) -> Any:
        """Greedy answers, as text up to eos: a string for one question, a list for several.

        `fwd_hooks` are addressed as in `run_with_hooks`.
        """
        count = self.num_latents(num_latents)
        behind = len(self.tokens.end()) + whole_number(max_new_tokens, "max_new_tokens")
        plan = HookPlan(self.model, fwd_hooks, count)
        state = self.think(_batch(questions), count, plan, behind=behind)
        answers = [self.tokens.text(ids) for ids in self.decode(state, max_new_tokens, plan)]
        plan.check_fired()
        return answers[0] if isinstance(questions, str) else answers

    def decode(
        self, state: LoopState, max_new_tokens: int = DECODED, plan: HookPlan | None = None
    ) -> list[list[int]]:
        """Tokens of the greedy answers, without eos, from a state whose thoughts are done."""
        end = torch.tensor(self.tokens.end()).expand(len(state.mask), -1)
        logits = self.loop.speak(state, end, () if plan is None else plan.at("eot"))
        return self.decode_from(state, logits[:, -1], max_new_tokens, plan)

    def decode_from(
        self,
        state: LoopState,
        logits: Float[Tensor, "batch d_vocab"],
        max_new_tokens: int = DECODED,
        plan: HookPlan | None = None,
    ) -> list[list[int]]:
        """Tokens of greedy answers, given the logits that predict their first token."""
        self.tokens.check_length(state.mask.shape[1] + max_new_tokens)
        return self.loop.decode(
            state,
            logits,
            stop=self.ids.eos,
            forbidden=self.ids.eot,
            max_new_tokens=max_new_tokens,
            plan=plan,
        )

    def decode_without_wrapper(
        self, questions: Sequence[str], max_new_tokens: int = DECODED
    ) -> list[list[int]]:
        """Tokens of greedy answers to `[BOS question][stem]`: no bot, no thoughts, no eot."""
        stem = self.tokens.stem()
        texts = [self.tokens.question(question) + stem for question in _batch(questions)]
        tokens, mask = left_pad(texts, self.ids.pad)
        self.tokens.check_length(tokens.shape[1] + max_new_tokens)
        state = self.loop.read(tokens[:, :-1], mask[:, :-1])
        logits = self.loop.speak(state, tokens[:, -1:])
        return self.decode_from(state, logits[:, -1], max_new_tokens)

    def run_with_hooks(
        self,
        questions: str | Sequence[str],
        answer: Answer | Sequence[Answer],
        *,
        fwd_hooks: Iterable[AddressedHook] = (),
        num_latents: int | None = None,
    ) -> CodiRun:
        """Runs the loop with hook functions, the answer teacher-forced.

        Args:
            questions: one, or a batch.
            answer: the answer to force, one per question.
            fwd_hooks: `(address, hook_fn)`, with an ordinary TransformerLens hook function
                `hook_fn(activation, hook)` and an address `Site(name, step)`, `(name, step)`, or a bare
                name for every step. A step is "prompt", "bot", a latent 0 .. N-1, "eot" or "answer"; the
                function sees the positions of that step alone ([batch, 1, …] at a latent).
            num_latents: number of thoughts; the model's own if None.

        Raises:
            UserError: an unknown hook point or step, or a hook that returned another shape or dtype.
            HookNeverFired: a hook that no step reached. No hook is left behind in any case.
        """
        questions, count = _batch(questions), self.num_latents(num_latents)
        plan = HookPlan(self.model, fwd_hooks, count)
        forced = self._forced(questions, answer)
        tokens, mask = right_pad(forced, self.ids.pad)
        end = torch.tensor(self.tokens.end()).expand(len(forced), -1)
        state = self.think(questions, count, plan, behind=end.shape[1] + tokens.shape[1])
        logits = [
            self.loop.speak(state, end, plan.at("eot"))[:, -1:],
            self.loop.speak(state, tokens, plan.at("answer"), mask),
        ]
        plan.check_fired()
        return CodiRun(
            torch.cat(logits, dim=1),
            torch.stack(state.final_states, dim=1),
            torch.stack(state.thoughts, dim=1),
            tuple(map(tuple, forced)),
        )

    def run_with_cache(
        self,
        questions: str | Sequence[str],
        answer: Answer | Sequence[Answer] | None = None,
        *,
        num_latents: int | None = None,
        names_filter: str | Sequence[str] | Callable[[str], bool] | None = None,
    ) -> tuple[Float[Tensor, "batch pos d_vocab"], CodiCache]:
        """Logits and TransformerLens' `ActivationCache` over the whole sequence.

        The thoughts come from the loop; then one pass over question, bot, thoughts, eot and answer fills
        the cache, so that attention patterns are [batch, head, pos, pos] and every method of the class
        works. `cache.positions` tells which positions belong to which step.

        Args:
            answer: the answer to append; None: the model's own greedy answer.
            names_filter: as in `HookedTransformer.run_with_cache`.
        """
        questions, count = _batch(questions), self.num_latents(num_latents)
        given = None if answer is None else self._forced(questions, answer)
        end = torch.tensor(self.tokens.end()).expand(len(questions), -1)
        longest = DECODED if given is None else max(map(len, given))
        state = self.think(questions, count, behind=end.shape[1] + longest)
        forced = self.decode(state.fork(), DECODED) if given is None else given
        prompt, prompt_mask = self.tokens.prompts(questions)
        tokens, answer_mask = right_pad(forced, self.ids.pad)
        thoughts = torch.stack(state.thoughts, dim=1)[:, :count]
        parts = [self.loop.embed(prompt), thoughts, self.loop.embed(end), self.loop.embed(tokens)]
        between = torch.ones((len(forced), count + end.shape[1]), dtype=torch.long)
        mask = torch.cat([prompt_mask, between, answer_mask], dim=1).to(self.loop.device)
        activations, hooks, _ = self.model.get_caching_hooks(names_filter)
        final = self.loop.advance(self.loop.start(len(forced)), torch.cat(parts, 1), hooks, mask)
        logits = self.loop.unembed(final, hooks)
        positions = _positions(*(part.shape[1] for part in parts))
        return logits, CodiCache(activations, self.model, positions, mask)

    def num_latents(self, num_latents: int | None = None) -> int:
        """The number of thoughts asked for; the model's own if None."""
        count = self.config.num_latents if num_latents is None else num_latents
        return whole_number(count, "num_latents")

    def _forced(
        self, questions: Sequence[str], answer: Answer | Sequence[Answer]
    ) -> list[list[int]]:
        single = isinstance(answer, str) or not isinstance(answer, Iterable)
        answers = [answer] if single else list(answer)  # type: ignore[arg-type]
        if len(answers) != len(questions):
            raise UserError(
                f"{len(questions)} questions and {len(answers)} answers; give one answer each"
            )
        return [self.tokens.answer(a) for a in answers]  # type: ignore[arg-type]


def _batch(questions: str | Sequence[str]) -> Sequence[str]:
    """The questions as a list of at least one text."""
    batch = [questions] if isinstance(questions, str) else list(questions)
    if not batch:
        raise UserError("no questions; give a text, or a list of at least one")
    for question in batch:
        if not isinstance(question, str):
            raise UserError(f"a question is {question!r}; it must be a text")
    return batch


def _positions(prompt: int, latents: int, end: int, answer: int) -> dict[Step, slice]:
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
