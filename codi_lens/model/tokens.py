"""Text <-> the token sequences of a model: `[BOS question][bot]`, `[eot]`, `[stem][answer]`."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from codi_lens.checkpoint.config import SPECIAL, CodiConfig
from codi_lens.checkpoint.fields import text
from codi_lens.checkpoint.layouts import CODI
from codi_lens.data import judges
from codi_lens.data.answers import Answer, answer_tokens, is_number
from codi_lens.errors import UserError


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the tokens that frame a sequence; those that a model does not have are None."""

    pad: int
    bot: int | None
    eot: int | None
    eos: int
    latent: int | None = None
    """Coconut's placeholder of a thought, which pause-token models are fed."""


class UnfitSetting(UserError):
    """A setting of `CodiConfig` that this tokenizer does not go with; `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class CodiTokens:
    """Builds the parts of a sequence: no chat template, no wrapper words, a BOS where the model has one."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: CodiConfig, d_vocab: int, n_ctx: int
    ) -> None:
        self.tokenizer = tokenizer
        self.config = CODI.complete(config)
        self.n_ctx = n_ctx
        self.ids = _special_ids(tokenizer, self.config, d_vocab)
        self._begin = self._frame("begin", d_vocab)
        self._end = self._frame("end", d_vocab)
        self._special = _special_tokens(tokenizer)
        self.bos = tuple(_bos(tokenizer, self.config.bos))
        """What stands in front of every text; may be empty."""
        try:
            self._check_words(self.stem(), "answer_stem", config.answer_stem)
        except UserError as error:
            raise UnfitSetting("answer_stem", str(error)) from error

    def _frame(self, field: str, d_vocab: int) -> list[int]:
        """The ids of the tokens in `begin` or `end`."""
        found = []
        for name in getattr(self.config, field):
            index = (
                getattr(self.ids, name)
                if name in SPECIAL
                else _own_id(self.tokenizer, name, d_vocab)
            )
            if index is None:
                raise UnfitSetting(
                    field,
                    f"{field} holds {name!r}, which is neither a token of the tokenizer within the model's "
                    f"{d_vocab} rows nor among extra_tokens ({', '.join(self.config.extra_tokens or ())})",
                )
            found.append(index)
        return found

    def sequence(self) -> str:
        """The parts of a sequence in words, such as `[BOS][question][bot][thoughts][eot][answer]`."""
        suffix, config = self.config.question_suffix, self.config
        question = f"question + {suffix!r}" if suffix else "question"
        begin, end = (config.begin or ()), (config.end or ())
        thoughts = ["thoughts"] if config.num_latents else []
        bos = ["BOS"] if self.bos else []
        return "".join(f"[{part}]" for part in (*bos, question, *begin, *thoughts, *end, "answer"))

    def question(self, question: str) -> list[int]:
        """`[BOS question]`.

        Raises:
            UserError: an empty question, words that the tokenizer does not know, or a special token.
        """
        return self._questions([question])[0]

    def _questions(self, questions: Sequence[str]) -> list[list[int]]:
        """Of several at once, which a tokenizer does far faster than one by one.

        The tokenizer's template is left out: it may put an eos behind, which CODI is not trained with.
        """
        if not all(text(question, "the question").strip() for question in questions):
            raise UserError("the question is empty")
        texts = [question + (self.config.question_suffix or "") for question in questions]
        rows = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        for question, ids in zip(questions, rows, strict=True):
            self._check_words(ids, "the question", question)
        return [[*self.bos, *ids] for ids in rows]

    def _check_words(self, ids: Sequence[int], what: str, words: str) -> None:
        """Refuses text in which not every token is a known word."""
        shown = f"{what} {words[:300]!r}"
        if self.tokenizer.unk_token_id in ids:
            raise UserError(f"the tokenizer does not know every word of {shown}")
        if special := self._special.keys() & ids:
            raise UserError(
                f"{shown} holds the special token {self._special[min(special)]!r}, which is "
                "no text to the model; leave it out"
            )

    def prompt(self, question: str) -> list[int]:
        """`[BOS question]` and what is between it and the thoughts. Raises as `question` does."""
        return [*self.question(question), *self._begin]

    def end(self) -> list[int]:
        """What is between the thoughts and the answer; empty where the answer begins at the last thought."""
        return list(self._end)

    def answer(self, answer: Answer) -> list[int]:
        """The stem's tokens and the answer's.

        Raises:
            UserError: no answer, or a text of words that the tokenizer does not know, or a special token.
        """
        tokens = answer_tokens(self.tokenizer, self.config.answer_stem, answer)
        if not is_number(answer):
            self._check_words(tokens.answer, "the answer", str(answer))
        return [*tokens.stem, *tokens.answer]

    def is_right(self, text: str, answer: Answer, judge: str | None = None) -> bool:
        """Whether generated text gives an answer, by `judge`, else the config's, else as its kind asks."""
        named = judge or self.config.judge
        return judges.is_right(text, answer, judge=named, stem=self.config.answer_stem)

    def stem(self) -> list[int]:
        """The stem's tokens; without its last blank where an answer takes that along (see `answer_tokens`)."""
        stem = self.config.answer_stem
        try:
            return list(answer_tokens(self.tokenizer, stem, 0).stem)
        except UserError:  # not in front of a number; maybe in front of other answers
            return list(self.tokenizer.encode(stem, add_special_tokens=False))

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def words(self, ids: Sequence[int]) -> list[str]:
        """Each token's own text; bot and eot, for which the tokenizer may have none, are "<bot>" and "<eot>"."""
        names = {self.ids.bot: "<bot>", self.ids.eot: "<eot>", self.ids.latent: "<latent>"}
        frame = {i: name for i, name in names.items() if i is not None}
        return [frame.get(i) or str(self.tokenizer.decode([i])) for i in ids]

    def prompts(
        self, questions: Sequence[str]
    ) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
        """Tokens and mask of a left-padded batch of prompts."""
        rows = [[*ids, *self._begin] for ids in self._questions(questions)]
        return left_pad(rows, self.ids.pad)

    def check_length(self, length: int) -> None:
        """Raises UserError for a sequence that is longer than the model's context."""
        if length > self.n_ctx:
            raise UserError(
                f"the sequence has {length} positions; the model's context has {self.n_ctx}"
            )


def left_pad(
    sequences: Sequence[Sequence[int]], pad: int
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Tokens and mask (1: real, 0: padding) of a left-padded batch."""
    width = max(map(len, sequences))
    tokens = [[pad] * (width - len(s)) + list(s) for s in sequences]
    mask = [[0] * (width - len(s)) + [1] * len(s) for s in sequences]
    return torch.tensor(tokens, dtype=torch.long), torch.tensor(mask, dtype=torch.long)


def right_pad(
    sequences: Sequence[Sequence[int]], pad: int
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Tokens and mask of a right-padded batch."""
    tokens, mask = left_pad([list(reversed(s)) for s in sequences], pad)
    return tokens.flip(1), mask.flip(1)


def ids_for(tokens: Any, leading: torch.Size, d_vocab: int) -> int | Int[Tensor, "..."]:
    """Token ids shaped so that they meet the rows and positions of a stack that they are meant for."""
    needed = f"give ids from 0 to {d_vocab - 1}, as codi.tokens.answer(…) has them"
    try:
        ids = torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"tokens are {reprlib.repr(tokens)}; {needed}") from error
    whole = ids.dtype != torch.bool and not (ids.is_floating_point() or ids.is_complex())
    if not whole or bool(((ids < 0) | (ids >= d_vocab)).any()):
        raise UserError(f"tokens are {reprlib.repr(tokens)}; {needed}")
    if ids.ndim == 0:
        return int(ids)
    # One a row stands for one at every position of the row.
    ids = ids[:, None] if ids.ndim == 1 and len(leading) == 2 else ids
    fits = ids.ndim == len(leading) and all(
        own in (1, size) for own, size in zip(ids.shape, leading, strict=True)
    )
    if not fits:
        raise UserError(
            f"tokens of shape {tuple(torch.as_tensor(tokens).shape)} for a stack over {tuple(leading)}; give one id, "
            "one per row, or one per row and position"
        )
    return ids


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Id -> spelling of all that the tokenizer reads as one token wherever it is typed, but is no word."""
    marked = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return marked | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def _bos(tokenizer: PreTrainedTokenizerBase, wanted: bool | None) -> list[int]:
    """What stands in front of every text: a BOS, or nothing. See `CodiConfig.bos`.

    Raises:
        UserError: the tokenizer frames text with more than bos and eos, and what that is for is not known; or
            a BOS is wanted and it has none.
    """
    frame = tokenizer("")["input_ids"]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if other := [token for token in frame if token not in (bos, eos)]:
        raise UserError(
            f"the tokenizer puts {tokenizer.convert_ids_to_tokens(other)} around every text; a "
            "sequence begins [BOS question]: expected a tokenizer that adds bos and eos at most"
        )
    if bos is None:
        if wanted:
            raise UnfitSetting("bos", "bos is true, and the tokenizer has no BOS token")
        return []
    if wanted is None:
        wanted = bos != eos or tokenizer("0")["input_ids"][:1] == [bos]
    return [bos] if wanted else []


def _special_ids(
    tokenizer: PreTrainedTokenizerBase, config: CodiConfig, d_vocab: int
) -> SpecialIds:
    """Rows behind the base vocabulary, and the tokenizer's own tokens where they are named."""
    eos = tokenizer.eos_token_id
    if eos is None:
        raise UserError("the tokenizer has no eos token; answers could not end")
    names = config.extra_tokens or ()
    rows = dict(zip(names, range(d_vocab - len(names), d_vocab), strict=True))
    taken = {"eos": tokenizer.eos_token, "bos": tokenizer.bos_token}
    for field, token in (("bot_token", config.bot_token), ("eot_token", config.eot_token)):
        if token is None:
            continue
        for name, other in taken.items():
            if token == other:
                raise UnfitSetting(
                    field,
                    f"{field} is {token!r}, which is the tokenizer's {name} token; give a token of its own",
                )
        index = _own_id(tokenizer, token, d_vocab)
        if index is None:
            raise UnfitSetting(
                field, f"the tokenizer has no token {token!r} within the model's {d_vocab} rows"
            )
        rows[field.removesuffix("_token")] = index
    pad = tokenizer.pad_token_id
    return SpecialIds(
        rows.get("pad", eos if pad is None else pad),
        rows.get("bot"),
        rows.get("eot"),
        eos,
        rows.get("latent"),
    )


def _own_id(tokenizer: PreTrainedTokenizerBase, token: str, d_vocab: int) -> int | None:
    """The id of one of the tokenizer's tokens, within the model's rows."""
    index = tokenizer.get_vocab().get(token)
    return index if index is not None and index < d_vocab else None
