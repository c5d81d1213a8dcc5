"""Spellings, parsing, and the tokens of answers under a LLaMA-3-like tokenizer."""

from decimal import Decimal
from enum import IntEnum

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codi_lens.data.answers import (
    answer_tokens,
    as_stored,
    is_number,
    normalise,
    parse_answer,
    same_answer,
    spell,
)
from codi_lens.data.judges import is_right
from codi_lens.errors import UserError
from tests.models.llama3_tokenizer import llama3_tokenizer

STEM = "The answer is: "
EOS = 1  # the second special token of the tokenizer


def words(ids: tuple[int, ...]) -> list[str]:
    """Tokens as readable text; byte-level BPE writes a blank as Ġ."""
    return [t.replace("Ġ", " ") for t in llama3_tokenizer().convert_ids_to_tokens(list(ids))]


@pytest.mark.parametrize(
    ("answer", "spelling"),
    [
        (18, "18"),
        (0, "0"),
        (-7, "-7"),
        (3600, "3600"),
        (1234567, "1234567"),
        (18.0, "18"),
        (-0.0, "0"),
        (2.5, "2.5"),
        (-0.125, "-0.125"),
        (100.0, "100"),
        ("3,600", "3600"),
        ("3600.0", "3600"),
        (" 3600 ", "3600"),
        ("1,234,567.50", "1234567.5"),
        ("007", "7"),
        ("-0.0", "0"),
        ("0.10", "0.1"),
        ("12345678901234567890.1", "12345678901234567890.1"),
        (10**30, "1" + "0" * 30),
        (np.int8(-7), "-7"),
        (np.float32(2.1), "2.1"),
        (np.float64(2.5), "2.5"),
    ],
)
def test_spelling(answer: int | float | str, spelling: str) -> None:
    assert spell(answer) == spelling


@pytest.mark.parametrize(
    "answer",
    [
        None,
        True,
        False,
        float("nan"),
        float("inf"),
        float("-inf"),
        1e-7,
        1e16,
        10**400,
        "",
        " ",
        "\ud800",
        [18],
        np.bool_(True),
        np.float32("nan"),
    ],
)
def test_no_spelling(answer: object) -> None:
    with pytest.raises(UserError, match="has no plain spelling"):
        spell(answer)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["9" * 400, "1e5", "1,5", "36,00", ",600", "--3", "3 600", "18.", ".5", "$18", "٣", " Yes.\n"],
)
def test_text_that_is_no_plain_number_is_an_answer_to_the_letter(text: str) -> None:
    with pytest.raises(UserError, match="has no plain spelling"):
        normalise(text)
    assert not is_number(text)
    assert spell(text) == as_stored(text) == text


@pytest.mark.parametrize(
    ("answer", "stored"),
    [("3,600", 3600), (" 18 ", 18), ("2.50", 2.5), ("18.0", 18), (18.0, 18), (2.5, 2.5)]
    + [(text, text) for text in ("12345678901234567890.1", "Tom is a lempus.", "True")],
)
def test_a_number_is_stored_as_such_however_it_is_given(answer: object, stored: object) -> None:
    found = as_stored(answer)  # type: ignore[arg-type]
    assert (found, type(found)) == (stored, type(stored))
    assert same_answer(found, answer)  # type: ignore[arg-type]


def test_subclasses_of_int_are_spelled_as_numbers() -> None:
    class Count(IntEnum):
        DOZEN = 12

    assert spell(Count.DOZEN) == "12"


@given(st.integers())
def test_integers_are_spelled_like_python_and_with_separators_alike(number: int) -> None:
    assert spell(number) == str(number)
    assert normalise(f"{number:,}") == str(number)
    assert same_answer(number, f"{number:,}.00")


@given(st.decimals(-10_000, 10_000, places=4))
def test_spelling_keeps_the_value_and_is_its_own_spelling(number: Decimal) -> None:
    spelling = spell(f"{number:f}")
    assert Decimal(spelling) == number
    assert spell(spelling) == spelling
    assert "." not in spelling or not spelling.endswith("0")
    assert parse_answer(f"{STEM}{spelling}") == float(number)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is: 18", 18.0),
        ("The answer is: 3,600", 3600.0),
        ("3 ducks and 4 geese, so 7 birds.", 7.0),
        ("It costs $2.50 a day", 2.5),
        ("The answer is: 18.", 18.0),
        ("The answer is: -12", -12.0),
        ("7-3", -3.0),  # the official pattern reads the sign, whatever it meant
        ("1,2", 12.0),  # the official way drops every comma
        ("8 and .5", 5.0),  # the official pattern needs a digit before the point
        ("The answer is: ", None),
        ("", None),
        ("inf", None),
        ("minus twelve", None),
        ("9" * 400, None),
    ],
)
def test_parsing_in_the_official_way(text: str, number: float | None) -> None:
    assert parse_answer(text) == number


def test_correctness_is_exact() -> None:
    assert is_right("The answer is: 3,600", 3600)
    assert is_right("The answer is: 3600.0", "3,600")
    assert is_right("18.", 18.0)
    assert is_right("-2.50", -2.5)
    assert not is_right("The answer is: 36", 3600)
    assert not is_right("no number", 0)
    assert not is_right("12", -12)
    # 2**53 and 2**53 + 1 are the same float, and yet different answers.
    assert not is_right("9007199254740992", 2**53 + 1)


def test_tokenizer_cuts_like_llama3() -> None:
    tokenizer = llama3_tokenizer()
    ids = tokenizer.encode("The answer is: 3600", add_special_tokens=False)
    assert words(tuple(ids)) == ["The", " answer", " is", ":", " ", "360", "0"]
    assert words(tuple(tokenizer.encode("18"))) == ["<|begin_of_text|>", "18"]
    assert tokenizer.eos_token_id == EOS


def test_numbers_up_to_999_are_one_token() -> None:
    for number in range(1000):
        tokens = answer_tokens(llama3_tokenizer(), STEM, number)
        assert words(tokens.answer) == [str(number)]
        assert words(tokens.stem) == ["The", " answer", " is", ":", " "]


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (18, ["18"]),
        (360, ["360"]),
        (3600, ["360", "0"]),
        ("3,600", ["360", "0"]),
        (12345, ["123", "45"]),
        (1234567, ["123", "456", "7"]),
        (1000000, ["100", "000", "0"]),
        (2.5, ["2", ".", "5"]),
        (1234.75, ["123", "4", ".", "75"]),
    ],
)
def test_number_tokens(answer: int | float | str, number: list[str]) -> None:
    tokens = answer_tokens(llama3_tokenizer(), STEM, answer)
    assert words(tokens.answer) == number
    assert words(tokens.stem) == ["The", " answer", " is", ":", " "]


def test_a_sign_takes_the_blank_of_the_stem() -> None:
    tokens = answer_tokens(llama3_tokenizer(), STEM, -18)
    assert words(tokens.stem) == ["The", " answer", " is", ":"]
    assert words(tokens.answer) == [" -", "18"]


def test_bare_answers_have_an_empty_stem() -> None:
    tokens = answer_tokens(llama3_tokenizer(), "", -3600)
    assert tokens.stem == ()
    assert words(tokens.answer) == ["-", "360", "0"]


def test_a_stem_that_ends_inside_a_token_shows_both_tokenisations() -> None:
    with pytest.raises(UserError) as error:
        answer_tokens(llama3_tokenizer(), "The answer is: 1", 8)
    assert "'1']" in str(error.value)
    assert "'18']" in str(error.value)
