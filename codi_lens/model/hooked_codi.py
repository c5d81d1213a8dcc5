"""`HookedCodi`: a CODI model to generate with, to look into and to intervene on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from codi_lens.data.answers import Answer
from codi_lens.errors import UserError, whole_number
from codi_lens.model.cache import CodiCache
from codi_lens.model.hooks import AddressedHook, HookPlan
from codi_lens.model.loop_state import LoopState
from codi_lens.model.parts import CodiParts
from codi_lens.model.run import CodiRun, NamesFilter, cached_pass
from codi_lens.model.tokens import left_pad, right_pad

DECODED = 32
"""Tokens of a greedy answer, at most, where nothing else is said."""


class HookedCodi(CodiParts):
    """A CODI model to generate with, to look into and to intervene on; its parts are those of `CodiParts`."""

    def read(
        self, questions: Sequence[str], plan: HookPlan | None = None, *, behind: int = 0
    ) -> LoopState:
        """Runs the prompts, left-padded; returns the state before bot.

        `behind`: positions that are to follow the prompt, which the context must have room for.
        """
        return self.loop.read(*self._prompts(questions, behind), plan)

    def read_to_share(self, questions: Sequence[str], *, through_bot: bool = False) -> LoopState:
        """As `read`, or on through bot; rows of the state can be selected and repeated."""
        return self.loop.read_to_share(*self._prompts(questions), through_bot=through_bot)

    def _prompts(
        self, questions: Sequence[str], behind: int = 0
    ) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
        tokens, mask = self.tokens.prompts(_batch(questions))
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
        return self.loop.think(self.loop.begin(state, plan), count, plan)

    @overload
    def generate(  # type: ignore[overload-overlap] # a str is a sequence of texts, too
        self,
        questions: str,
        *,
        num_latents: int | None = None,
        max_new_tokens: int = DECODED,
        fwd_hooks: Iterable[AddressedHook] = (),
    ) -> str: ...
    @overload
    def generate(
        self,
        questions: Sequence[str],
        *,
        num_latents: int | None = None,
        max_new_tokens: int = DECODED,
        fwd_hooks: Iterable[AddressedHook] = (),
    ) -> list[str]: ...
    def generate(
        self,
        questions: str | Sequence[str],
        *,
        num_latents: int | None = None,
        max_new_tokens: int = DECODED,
        fwd_hooks: Iterable[AddressedHook] = (),
    ) -> str | list[str]:
        """Greedy answers, as text up to eos: a string for one question, a list for several.

        `fwd_hooks` are addressed as in `run_with_hooks`.
        """
        count = self.num_latents(num_latents)
        behind = len(self.tokens.end()) + whole_number(max_new_tokens, "max_new_tokens")
        plan = self.loop.plan(fwd_hooks, count)
        state = self.think(_batch(questions), count, plan, behind=behind)
        answers = [self.tokens.text(ids) for ids in self.decode(state, max_new_tokens, plan)]
        plan.check_fired()
        return answers[0] if isinstance(questions, str) else answers

    def decode(
        self, state: LoopState, max_new_tokens: int = DECODED, plan: HookPlan | None = None
    ) -> list[list[int]]:
        """Tokens of the greedy answers, without eos, from a state whose thoughts are done."""
        whole_number(max_new_tokens, "max_new_tokens")
        return self.decode_from(state, self._feed_eot(state, plan), max_new_tokens, plan)

    def _feed_eot(
        self, state: LoopState, plan: HookPlan | None = None
    ) -> Float[Tensor, "batch d_vocab"]:
        """Step `eot`: the logits that predict the answer's first token."""
        none = torch.empty((len(state.mask), 0), dtype=torch.long)
        hooks = () if plan is None else plan.at("eot")
        final = self.loop.end(state, self.tokens.end(), none, none, hooks)
        return self.loop.unembed(final, hooks)[:, -1]

    def decode_from(
        self,
        state: LoopState,
        logits: Float[Tensor, "batch d_vocab"],
        max_new_tokens: int = DECODED,
        plan: HookPlan | None = None,
        kept: list[Float[Tensor, "batch d_vocab"]] | None = None,
    ) -> list[list[int]]:
        """Tokens of greedy answers, given the logits that predict their first token.

        The logits after each token are appended to `kept`.
        """
        self.tokens.check_length(state.mask.shape[1] + max_new_tokens)
        return self.loop.decode(
            state,
            logits,
            stop=self.ids.eos,
            forbidden=self.ids.eot if self.config.forbid_eot else None,
            max_new_tokens=max_new_tokens,
            plan=plan,
            kept=kept,
        )

    def decode_without_wrapper(
        self, questions: Sequence[str], max_new_tokens: int = DECODED
    ) -> list[list[int]]:
        """Tokens of greedy answers to `[BOS question][stem]`: no bot, no thoughts, no eot."""
        whole_number(max_new_tokens, "max_new_tokens")
        stem = self.tokens.stem()
        texts = [self.tokens.question(question) + stem for question in _batch(questions)]
        tokens, mask = left_pad(texts, self.ids.pad)
        self.tokens.check_length(tokens.shape[1] + max_new_tokens)
        state = self.loop.read(tokens, mask)
        logits = self.loop.feed_tokens(state, state.bot)
        return self.decode_from(state, logits[:, -1], max_new_tokens)

    def run_with_hooks(
        self,
        questions: str | Sequence[str],
        answer: Answer | Sequence[Answer] | None = None,
        *,
        fwd_hooks: Iterable[AddressedHook] = (),
        bwd_hooks: Iterable[AddressedHook] = (),
        num_latents: int | None = None,
    ) -> CodiRun:
        """Runs the loop with hook functions.

        Args:
            questions: one, or a batch.
            answer: the answer to force, one per question. None: the model's own greedy answer, decoded
                under the hooks; step "answer" is then a pass for each token.
            fwd_hooks: `(address, hook_fn)`, with an ordinary TransformerLens hook function
                `hook_fn(activation, hook)` and an address `Site(name, step)`, `(name, step)`, or a bare
                name for every step. A step is "prompt", "bot", a latent 0 .. N-1, "eot" or "answer", or a
                list of them; the function sees the positions of that step alone ([batch, 1, …] at a latent).
            bwd_hooks: likewise, with functions `hook_fn(gradient, hook)` of the gradient of the activation
                that the forward hooks leave. They are called when you call `backward()` on something
                computed from the run. What a function returns takes the gradient's place.
            num_latents: number of thoughts; the model's own if None.

        Raises:
            UserError: an unknown hook point or step, or a hook that returned another shape or dtype.
            HookNeverFired: a hook that no step reached. No hook is left behind in any case.
        """
        questions, count = _batch(questions), self.num_latents(num_latents)
        plan = self.loop.plan(fwd_hooks, count, bwd_hooks)
        given = None if answer is None else self._forced(questions, answer)
        state = self.think(questions, count, plan, behind=self._behind(given))
        first = self._feed_eot(state, plan)
        if given is None:
            kept = [first]
            answers = self.decode_from(state, first, DECODED, plan, kept)
            logits = torch.stack(kept, dim=1)
        else:
            answers, (tokens, mask) = given, right_pad(given, self.ids.pad)
            rest = self.loop.feed_tokens(state, tokens, plan.at("answer"), mask)
            logits = torch.cat([first[:, None], rest], dim=1)
        plan.check_fired()
        return CodiRun(
            logits,
            torch.stack(state.final_states, dim=1),
            torch.stack(state.thoughts, dim=1),
            tuple(map(tuple, answers)),
        )

    def run_with_cache(
        self,
        questions: str | Sequence[str],
        answer: Answer | Sequence[Answer] | None = None,
        *,
        fwd_hooks: Iterable[AddressedHook] = (),
        bwd_hooks: Iterable[AddressedHook] = (),
        num_latents: int | None = None,
        names_filter: NamesFilter = None,
    ) -> tuple[Float[Tensor, "batch pos d_vocab"], CodiCache]:
        """Logits and TransformerLens' `ActivationCache` over the whole sequence.

        The thoughts come from the loop; then one pass over question, bot, thoughts, eot and answer fills
        the cache, so that attention patterns are [batch, head, pos, pos] and every method of the class
        works. `cache.positions` tells which positions belong to which step, `to_str_tokens` what is there.

        Args:
            questions: one, or a batch.
            answer: the answer to append; None: the model's own greedy answer, decoded under the hooks.
            fwd_hooks: addressed as in `run_with_hooks`. They act in the loop and in the cached pass, so a
                function is called twice at a step; the cache holds what they leave.
            bwd_hooks: likewise; the gradients of the two calls sum to the one that `run_with_hooks` gives.
            num_latents: number of thoughts; the model's own if None.
            names_filter: the hook points to cache: a name, a list of names, or a filter on names.

        Raises:
            UserError, HookNeverFired: as in `run_with_hooks`; or a hook on `hook_rot_k`.
        """
        questions, count = _batch(questions), self.num_latents(num_latents)
        plan = self.loop.plan(fwd_hooks, count, bwd_hooks)
        given = None if answer is None else self._forced(questions, answer)
        state = self.think(questions, count, plan, behind=self._behind(given))
        thoughts = torch.stack(state.thoughts, dim=1)[:, :count]
        answers = self.decode(state, DECODED, plan) if given is None else given
        logits, cache = cached_pass(self, questions, thoughts, answers, plan, names_filter)
        plan.check_fired()
        return logits, cache

    def __call__(
        self,
        questions: str | Sequence[str],
        answer: Answer | Sequence[Answer] | None = None,
        *,
        num_latents: int | None = None,
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits over the whole sequence, the model's own greedy answer included, as `run_with_cache` has them."""
        return self.run_with_cache(questions, answer, num_latents=num_latents, names_filter=())[0]

    def to_str_tokens(
        self, question: str, answer: Answer | None = None, *, num_latents: int | None = None
    ) -> list[str]:
        """A label for every position that `run_with_cache` caches for one question.

        The question's tokens, "<bot>", "z0" … for the thoughts that are fed, "<eot>", and the answer's
        tokens: those of the model's own greedy answer if `answer` is None.
        """
        if not isinstance(question, str):
            raise UserError(f"the question is {question!r}; give one text")
        count = self.num_latents(num_latents)
        if answer is None:
            (ids,) = self.decode(self.think([question], count, behind=self._behind(None)))
        else:
            ids = self.tokens.answer(answer)
        words, thoughts = self.tokens.words, [f"z{k}" for k in range(count)]
        return [*words(self.tokens.prompt(question)), *thoughts, *words(self.tokens.end() + ids)]

    def _behind(self, answers: Sequence[Sequence[int]] | None) -> int:
        """Positions behind the thoughts: the end tokens, and the longest answer or as many as are decoded."""
        return len(self.tokens.end()) + (DECODED if answers is None else max(map(len, answers)))

    def num_latents(self, num_latents: int | None = None) -> int:
        """The number of thoughts asked for; the model's own if None."""
        count = self.config.num_latents if num_latents is None else num_latents
        return whole_number(count, "num_latents")

    def _forced(
        self, questions: Sequence[str], answer: Answer | Sequence[Answer]
    ) -> list[list[int]]:
        several = isinstance(answer, Iterable) and not isinstance(answer, str | bytes | Mapping)
        single = not several or getattr(answer, "ndim", 1) == 0
        answers = [answer] if single else list(answer)  # type: ignore[arg-type]
        if len(answers) != len(questions):
            raise UserError(
                f"{len(questions)} questions and {len(answers)} answers; give one answer each"
            )
        return [self.tokens.answer(a) for a in answers]  # type: ignore[arg-type]


def _batch(questions: str | Sequence[str]) -> Sequence[str]:
    """The questions as a list of at least one text."""
    if questions is None:
        raise UserError("the questions are None; give a text, or a list of at least one")
    batch = [questions] if isinstance(questions, str) else list(questions)
    if not batch:
        raise UserError("no questions; give a text, or a list of at least one")
    for question in batch:
        if not isinstance(question, str):
            raise UserError(f"a question is {question!r}; it must be a text")
    return batch
