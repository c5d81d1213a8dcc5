"""`HookedCodi`: a CODI model to generate with, to look into and to intervene on."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import ActivationCache, HookedTransformer
from transformers import PreTrainedTokenizerBase

from codi_lens.answers import Answer
from codi_lens.config import CodiConfig
from codi_lens.errors import UserError
from codi_lens.hooked import to_hooked
from codi_lens.hooks import AddressedHook, HookPlan, Step
from codi_lens.load_report import LoadReport
from codi_lens.loop import LatentLoop, LoopState
from codi_lens.pretrained import Pretrained, load_pretrained
from codi_lens.tokens import CodiTokens, left_pad, right_pad


@dataclass(frozen=True)
class CodiRun:
    """One run of the loop over a batch, the answer given (teacher-forced)."""

    logits: Float[Tensor, "batch answer_pos d_vocab"]
    """At eot and at each answer token: `logits[:, j]` predicts answer token j (stem included); what
    follows a row's own answer in a batch of unequal ones is padding."""
    final_states: Float[Tensor, "batch latent+1 d_model"]
    """After the final norm, at bot and at each latent step: what the projection reads."""
    thoughts: Float[Tensor, "batch latent+1 d_model"]
    """The projected `final_states`: z_0 … z_N. z_N is never fed. What a hook on `hook_embed` puts in a
    thought's place at a latent step is not shown here."""
    answer_tokens: tuple[tuple[int, ...], ...]


class CodiCache(ActivationCache):
    """TransformerLens' cache over question + bot + thoughts + eot + answer, in one sequence.

    `positions[step]` is the slice of the position axis that belongs to a step: "prompt" (left padding
    included), "bot", each latent 0 .. N-1, "eot", "answer".
    """

    def __init__(
        self,
        activations: dict[str, Tensor],
        model: HookedTransformer,
        positions: dict[Step, slice],
        mask: Int[Tensor, "batch pos"],
    ) -> None:
        super().__init__(activations, model)
        self.positions = positions
        self.mask = mask


class HookedCodi:
    """A CODI LLaMA as a `HookedTransformer`, with its projection, tokenizer and latent loop.

    Attributes:
        model: the hooked LLaMA; every hook point of TransformerLens is there.
        projection: final state -> thought, or None where the final state itself is fed.
        tokens: text to and from token sequences; its `tokenizer` is the base model's.
        ids: pad, bot, eot, eos.
        config: alpha, number of latents, layout, answer stem.
        loop: the latent-thought loop, for work below the level of this class.
        load_report: what the checkpoint held and what became of it.
    """

    def __init__(
        self,
        model: HookedTransformer,
        projection: nn.Module | None,
        tokenizer: PreTrainedTokenizerBase,
        config: CodiConfig,
        load_report: LoadReport | None = None,
        digest: str = "",
        name: str = "",
    ) -> None:
        self.model = model
        self.projection = projection
        self.config = config
        self.tokens = CodiTokens(tokenizer, config, model.cfg.d_vocab, model.cfg.n_ctx)
        self.ids = self.tokens.ids
        self.loop = LatentLoop(model, projection)
        self.load_report = load_report
        self.digest = digest
        self.name = name

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        base: str | Path | None = None,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str = torch.float32,
        alpha: float | None = None,
        num_latents: int | None = None,
        remove_eos: bool | None = None,
        answer_stem: str | None = None,
    ) -> Self:
        """Loads a model.

        Args:
            name_or_folder: "toy" (the embedded model), a folder in the official layout, or a hub id.
            base: folder or hub id of the base model, for its config, and for its tokenizer where
                none is beside the weights; None: beside the weights, else as the checkpoint's
                settings say.
            revision: branch, tag or commit of the checkpoint on the hub.
            device: "auto", or a torch device.
            dtype: of the merged weights, such as torch.bfloat16 or "bfloat16".
            alpha, num_latents, remove_eos, answer_stem: what the tensors cannot say, where neither
                `codi_config.json` nor the table of known checkpoints says it, or to override them.

        Raises:
            UserError: nothing there, or something that the tensors cannot tell is not given.
            CheckpointError: the checkpoint is not exactly the model it claims to be.
        """
        parts = load_pretrained(
            name_or_folder,
            base=base,
            revision=revision,
            device=device,
            dtype=dtype,
            lora_alpha=alpha,
            num_latents=num_latents,
            remove_eos=remove_eos,
            answer_stem=answer_stem,
        )
        return cls.from_parts(parts, str(name_or_folder))

    @classmethod
    def from_parts(cls, parts: Pretrained, name: str = "") -> Self:
        """Wraps a loaded model; `parts.llama` shares its weights with the result."""
        return cls(
            to_hooked(parts.llama),
            parts.projection,
            parts.tokenizer,
            parts.config,
            parts.report,
            parts.report.digest,
            name,
        )

    # -- runs ------------------------------------------------------------------------------------

    def read(self, questions: Sequence[str], plan: HookPlan | None = None) -> LoopState:
        """Runs the prompts, left-padded; returns the state before bot."""
        tokens, mask = self._prompts(questions)
        return self.loop.read(tokens[:, :-1], mask[:, :-1], plan)

    def read_to_share(self, questions: Sequence[str], *, through_bot: bool = False) -> LoopState:
        """As `read`, or on through bot; rows of the state can be selected and repeated."""
        tokens, mask = self._prompts(questions)
        end = tokens.shape[1] if through_bot else -1
        return self.loop.read_to_share(tokens[:, :end], mask[:, :end], through_bot=through_bot)

    def _prompts(
        self, questions: Sequence[str]
    ) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
        tokens, mask = self.tokens.prompts(questions)
        self.tokens.check_length(tokens.shape[1])
        return tokens, mask

    def think(
        self, questions: Sequence[str], num_latents: int, plan: HookPlan | None = None
    ) -> LoopState:
        """Runs the prompts, bot and the thoughts; returns the state before eot."""
        state = self.loop.begin(self.read(questions, plan), self.ids.bot, plan)
        return self.loop.think(state, num_latents, plan)

    def generate(
        self,
        questions: str | Sequence[str],
        *,
        num_latents: int | None = None,
        max_new_tokens: int = 32,
        fwd_hooks: Iterable[AddressedHook] = (),
    ) -> Any:
        """Greedy answers, as text up to eos: a string for one question, a list for several.

        `fwd_hooks` are addressed as in `run_with_hooks`.
        """
        count = self.num_latents(num_latents)
        plan = HookPlan(self.model, fwd_hooks, count)
        state = self.think(_batch(questions), count, plan)
        answers = [self.tokens.text(ids) for ids in self.decode(state, max_new_tokens, plan)]
        plan.check_fired()
        return answers[0] if isinstance(questions, str) else answers

    def decode(
        self, state: LoopState, max_new_tokens: int = 32, plan: HookPlan | None = None
    ) -> list[list[int]]:
        """Tokens of the greedy answers, without eos, from a state whose thoughts are done."""
        end = torch.tensor(self.tokens.end()).expand(len(state.mask), -1)
        logits = self.loop.speak(state, end, () if plan is None else plan.at("eot"))
        return self.decode_from(state, logits[:, -1], max_new_tokens, plan)

    def decode_from(
        self,
        state: LoopState,
        logits: Float[Tensor, "batch d_vocab"],
        max_new_tokens: int = 32,
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
        self, questions: Sequence[str], max_new_tokens: int = 32
    ) -> list[list[int]]:
        """Tokens of greedy answers to `[BOS question][stem]`: no bot, no thoughts, no eot."""
        stem = self.tokens.stem()
        texts = [self.tokens.question(question) + stem for question in questions]
        tokens, mask = left_pad(texts, self.ids.pad)
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
        state = self.think(questions, count, plan)
        end = torch.tensor(self.tokens.end()).expand(len(forced), -1)
        self.tokens.check_length(state.mask.shape[1] + end.shape[1] + tokens.shape[1])
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
        state = self.think(questions, count)
        forced = self.decode(state.fork()) if answer is None else self._forced(questions, answer)
        prompt, prompt_mask = self.tokens.prompts(questions)
        end = torch.tensor(self.tokens.end()).expand(len(forced), -1)
        tokens, answer_mask = right_pad(forced, self.ids.pad)
        thoughts = torch.stack(state.thoughts, dim=1)[:, :count]
        parts = [self.loop.embed(prompt), thoughts, self.loop.embed(end), self.loop.embed(tokens)]
        between = torch.ones((len(forced), count + end.shape[1]), dtype=torch.long)
        mask = torch.cat([prompt_mask, between, answer_mask], dim=1).to(self.loop.device)
        self.tokens.check_length(mask.shape[1])
        activations, hooks, _ = self.model.get_caching_hooks(names_filter)  # type: ignore[arg-type]
        final = self.loop.advance(self.loop.start(len(forced)), torch.cat(parts, 1), hooks, mask)
        logits = self.loop.unembed(final, hooks)
        positions = _positions(*(part.shape[1] for part in parts))
        return logits, CodiCache(activations, self.model, positions, mask)

    def num_latents(self, num_latents: int | None = None) -> int:
        """The number of thoughts asked for; the model's own if None."""
        count = self.config.num_latents if num_latents is None else num_latents
        if count < 0:
            raise UserError(f"num_latents is {count}; it must be 0 or more")
        return count

    def _forced(
        self, questions: Sequence[str], answer: Answer | Sequence[Answer]
    ) -> list[list[int]]:
        answers = [answer] if isinstance(answer, str | int | float) else list(answer)
        if len(answers) != len(questions):
            raise UserError(
                f"{len(questions)} questions and {len(answers)} answers; give one answer each"
            )
        return [self.tokens.answer(a) for a in answers]


def _batch(questions: str | Sequence[str]) -> Sequence[str]:
    return [questions] if isinstance(questions, str) else list(questions)


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
