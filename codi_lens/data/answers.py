"""Answers as numbers, as text and as tokens.

An answer has one *spelling* (`spell`): plain decimal digits, a leading "-" when negative, no
thousands separators, no trailing zeros after the point. A model
says it after a *stem* ("The answer is: "); we measure the tokens of the number, not those of the stem.

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
    """Token ids of one answer: `stem`, the text in front, and `number`, which follows it."""

    stem: tuple[int, ...]
    number: tuple[int, ...]


@dataclass(frozen=True)
class AnswerPair:
    """Token ids of two answers under one stem.

    `clean` and `corrupted` are the number tokens, both closed by eos where one answer's tokens
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
    """The one spelling of an answer: 18 -> "18", 18.0 -> "18", -2.50 -> "-2.5", "3,600" -> "3600".

    Raises UserError for what has none: None, booleans, NaN, infinities, and numbers that only an
    exponent can write (1e-07, or integers beyond the range of a float).
    """
    if isinstance(answer, bool):
        raise UserError(_no_spelling(answer))
    if isinstance(answer, str):
        return normalise(answer)
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


def same_answer(one: Answer, other: Answer) -> bool:
    """Whether two answers have the same spelling."""
    return spell(one) == spell(other)


def parse_answer(text: str) -> float | None:
    """The number that generated text gives as its answer: the last one, commas dropped.

    None when the text holds no number, or one too large for a float.
    """
    found = _last_number(text)
    value = math.inf if found is None else float(found)
    return value if math.isfinite(value) else None


def is_correct(text: str, answer: Answer) -> bool:
    """Whether generated text gives this answer; compared as exact decimals, not as floats."""
    found = _last_number(text)
    return found is not None and Decimal(found) == Decimal(spell(answer))


def answer_tokens(tokenizer: Tokenizer, stem: str, answer: Answer) -> AnswerTokens:
    """Token ids of `stem` followed by the answer's spelling, no special tokens, cut in two.

    With a LLaMA-3 tokenizer and the stem "The answer is: ", 3600 gives the stem
    "The", " answer", " is", ":", " " and the number "360", "0".

    Where the tokenizer joins the stem's last blanks to the number (LLaMA-3 reads ": -5" as ":",
    " -", "5"), the stem ends before the blanks and the number holds them: the model has to choose
    that token, so it belongs to what is measured.

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

    Raises UserError as `answer_tokens` does.
    """
    one, other = _tokens_under_one_stem(tokenizer, stem, [spell(clean), spell(corrupted)])
    c, r = one.number, other.number
    if c == r:
        return AnswerPair(one.stem, c, r, None)
    shorter = min(len(c), len(r))
    if c[:shorter] == r[:shorter]:
        c, r = (*c, eos_id), (*r, eos_id)
    first = next(i for i, (a, b) in enumerate(zip(c, r, strict=False)) if a != b)
    return AnswerPair(one.stem, c, r, first)


def _tokens_under_one_stem(
    tokenizer: Tokenizer, stem: str, numbers: Sequence[str]
) -> list[AnswerTokens]:
    """Cut each stem + number after the longest stem, with or without blanks, that suits all."""
    wholes = [_encode(tokenizer, stem + number) for number in numbers]
    for text in (stem, stem.rstrip()):
        front = _encode(tokenizer, text)
        if all(len(ids) > len(front) and ids[: len(front)] == front for ids in wholes):
            return [AnswerTokens(front, ids[len(front) :]) for ids in wholes]
    alone = tokenizer.convert_ids_to_tokens(list(_encode(tokenizer, stem)))
    together = [tokenizer.convert_ids_to_tokens(list(ids)) for ids in wholes]
    raise UserError(
        f"the tokens of the stem {stem!r} are not the beginning of the tokens of stem and answer: "
        f"alone {alone}, with {' and '.join(numbers)} {' and '.join(map(str, together))}; "
        "give a stem that ends where a token ends"
    )


def _encode(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False)) if text else ()


def _last_number(text: str) -> str | None:
    found = NUMBER_IN_TEXT.findall(text.replace(",", ""))
    return found[-1] if found else None


def _no_spelling(answer: object) -> str:
    return (
        f"answer {answer!r} has no plain decimal spelling; an integer, a finite fraction, or text "
        'such as "18", "-2.5" or "3,600" would do'
    )
