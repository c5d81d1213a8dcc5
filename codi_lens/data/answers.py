"""Answers, which are numbers or texts, and their tokens.

An answer has one *spelling* (`spell`). A number's is plain decimal digits, a leading "-" when negative, no
thousands separators, no trailing zeros after the point; text that is a plain number counts as that number.
Any other text is its own spelling. A model says it after a *stem* ("The answer is: "); we measure the tokens
of the answer, not those of the stem.

Generated text is read the way the CODI evaluation does it: drop all commas, take the last
`-?\\d+\\.?\\d*` (Shen et al., arXiv 2502.21074). The evaluation turns text
without a number into infinity; here it is None, so that such answers can be counted.
"""

import math
import operator
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Protocol, TypeAlias, runtime_checkable

from codi_lens.errors import UserError

Answer: TypeAlias = int | float | str
"""An answer as data files and users give it."""

PLAIN_NUMBER = re.compile(r"-?(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]+)?")
NUMBER_IN_TEXT = re.compile(r"-?\d+\.?\d*")


@runtime_checkable
class Tokenizer(Protocol):
    """What answers need of a tokenizer; any Hugging Face tokenizer has it."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def convert_ids_to_tokens(self, ids: list[int]) -> str | list[str]: ...


@dataclass(frozen=True)
class AnswerTokens:
    """Token ids of one answer: `stem`, the text in front, and `answer`, which follows it."""

    stem: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class AnswerPair:
    """Token ids of two answers under one stem.

    `clean` and `corrupted` are the answer tokens, both closed by eos where one answer's tokens
    are the beginning of the other's. `first_difference` is the first index at which they differ,
    None when the two answers are the same.
    """

    stem: tuple[int, ...]
    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    first_difference: int | None


def normalise(text: str) -> str:
    """The spelling of a number given as text: "3,600", "3600.0" and " 3600" are all "3600".

    Raises UserError for text that is not a plain decimal number, or whose commas do not set
    groups of three apart ("1,5" may mean 1.5).
    """
    stripped = text.strip()
    if not PLAIN_NUMBER.fullmatch(stripped):
        raise UserError(_no_spelling(text))
    number = stripped.replace(",", "")
    if math.isinf(float(number)):
        raise UserError(_no_spelling(text))
    exact = Decimal(number)
    spelling = f"{exact:f}" if exact else "0"
    return spelling.rstrip("0").rstrip(".") if "." in spelling else spelling


def spell(answer: Answer) -> str:
    """The one spelling of an answer: 18 -> "18", -2.50 -> "-2.5", "3,600" -> "3600", "Yes." -> "Yes.".

    Raises UserError for what has none: None, booleans, NaN, infinities, numbers that only an
    exponent can write (1e-07, or integers beyond the range of a float), and blank text.
    """
    if isinstance(answer, bool):
        raise UserError(_no_spelling(answer))
    if isinstance(answer, str):
        return normalise(answer) if is_number(answer) else _as_text(answer)
    try:
        whole = operator.index(answer)  # type: ignore[arg-type]
    except TypeError:
        whole = None
    if whole is not None and abs(whole) <= sys.float_info.max:
        return f"{whole:d}"
    if whole is None and isinstance(answer, Real):
        # Not by way of float: 2.1 in single precision has another shortest spelling there.
        return normalise(str(answer))
    raise UserError(_no_spelling(answer))


def is_number(answer: Answer) -> bool:
    """Whether an answer is a number, or text that is a plain one."""
    try:
        return bool(normalise(answer)) if isinstance(answer, str) else True
    except UserError:
        return False


def as_stored(answer: Answer) -> Answer:
    """An answer as files and digests have it: whole numbers as int, and text that is a number as that number."""
    if isinstance(answer, str):
        if not is_number(answer):
            return _as_text(answer)
        spelling = normalise(answer)
        value = float(spelling) if "." in spelling else int(spelling)
        return value if str(value) == spelling else spelling
    return int(answer) if answer == int(answer) else answer


def same_answer(one: Answer, other: Answer) -> bool:
    """Whether two answers have the same spelling."""
    return spell(one) == spell(other)


def last_number(text: str) -> str | None:
    """The last number of generated text, as it is written there but for commas, which are dropped."""
    found = NUMBER_IN_TEXT.findall(text.replace(",", ""))
    return found[-1] if found else None


def parse_answer(text: str) -> float | None:
    """The number that generated text gives as its answer: the last one, commas dropped.

    None when the text holds no number, or one too large for a float.
    """
    found = last_number(text)
    value = math.inf if found is None else float(found)
    return value if math.isfinite(value) else None


def answer_tokens(tokenizer: Tokenizer, stem: str, answer: Answer) -> AnswerTokens:
    """Token ids of `stem` followed by the answer's spelling, no special tokens, cut in two.

    With a LLaMA-3 tokenizer and the stem "The answer is: ", 3600 gives the stem
    "The", " answer", " is", ":", " " and the answer "360", "0".

    Where the tokenizer joins the stem's last blanks to the answer (LLaMA-3 reads ": -5" as ":",
    " -", "5", GPT-2 ": 18" as ":", " 18"), the stem ends before the blanks and the answer holds them:
    the model has to choose that token, so it belongs to what is measured.

    Raises UserError when the stem's own tokens are not the beginning of the whole.
    """
    return _tokens_under_one_stem(tokenizer, stem, [spell(answer)])[0]


def contrast(
    tokenizer: Tokenizer,
    stem: str,
    clean: Answer,
    corrupted: Answer,
    eos_id: int,
) -> AnswerPair:
    """Token ids of a clean and a corrupted answer under one stem, and where they first differ.

    Raises UserError as `answer_tokens` does, and for two answers that the tokenizer does not tell apart.
    """
    one, other = _tokens_under_one_stem(tokenizer, stem, [spell(clean), spell(corrupted)])
    c, r = one.answer, other.answer
    if c == r and not same_answer(clean, corrupted):
        raise UserError(f"the answers {clean!r} and {corrupted!r} have the same tokens")
    if c == r:
        return AnswerPair(one.stem, c, r, None)
    shorter = min(len(c), len(r))
    if c[:shorter] == r[:shorter]:
        c, r = (*c, eos_id), (*r, eos_id)
    first = next(i for i, (a, b) in enumerate(zip(c, r, strict=False)) if a != b)
    return AnswerPair(one.stem, c, r, first)


def _tokens_under_one_stem(
    tokenizer: Tokenizer, stem: str, answers: Sequence[str]
) -> list[AnswerTokens]:
    """Cut each stem + answer after the longest stem, with or without blanks, that suits all."""
    wholes = [_encode(tokenizer, stem + answer) for answer in answers]
    for text in (stem, stem.rstrip()):
        front = _encode(tokenizer, text)
        if all(len(ids) > len(front) and ids[: len(front)] == front for ids in wholes):
            return [AnswerTokens(front, ids[len(front) :]) for ids in wholes]
    alone = tokenizer.convert_ids_to_tokens(list(_encode(tokenizer, stem)))
    together = [tokenizer.convert_ids_to_tokens(list(ids)) for ids in wholes]
    raise UserError(
        f"the tokens of the stem {stem!r} are not the beginning of the tokens of stem and answer: "
        f"alone {alone}, with {' and '.join(answers)} {' and '.join(map(str, together))}; "
        "give a stem that ends where a token ends"
    )


def _encode(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False)) if text else ()


def _as_text(answer: str) -> str:
    """Text that can be an answer: not blank, and no half characters, which JSON can spell too."""
    if not answer.strip() or any("\ud800" <= letter <= "\udfff" for letter in answer):
        raise UserError(_no_spelling(answer))
    return answer


def _no_spelling(answer: object) -> str:
    return (
        f"answer {answer!r} has no plain spelling; an integer, a finite fraction, or text such as "
        '"18", "-2.5", "3,600" or "Tom is a lempus." would do'
    )
