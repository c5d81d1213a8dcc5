"""Two answers side by side: their tokens, and where they part."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codi_lens import HookedCodi
from codi_lens.data.answers import (
    AnswerPair,
    contrast,
)
from codi_lens.errors import UserError
from tests.data.test_answers import EOS, STEM, words
from tests.models.llama3_tokenizer import llama3_tokenizer


@pytest.mark.parametrize(
    ("clean", "corrupted", "c", "r", "first"),
    [
        (18, 20, ["18"], ["20"], 0),
        (36, 360, ["36"], ["360"], 0),  # "36" begins "360", but token 36 does not
        (3600, 3605, ["360", "0"], ["360", "5"], 1),
        (3600, 36000, ["360", "0"], ["360", "00"], 1),
        (1234567, 1234568, ["123", "456", "7"], ["123", "456", "8"], 2),
        (360, 3600, ["360", "EOS"], ["360", "0", "EOS"], 1),
        (3600, 360, ["360", "0", "EOS"], ["360", "EOS"], 1),
        (3, 3.5, ["3", "EOS"], ["3", ".", "5", "EOS"], 1),
        (2.5, 2.75, ["2", ".", "5"], ["2", ".", "75"], 2),
        (18, 3600, ["18"], ["360", "0"], 0),
        (18, 18.0, ["18"], ["18"], None),
        (3600, "3,600", ["360", "0"], ["360", "0"], None),
        (-18, -20, [" -", "18"], [" -", "20"], 1),
        (-18, 18, [" -", "18"], [" ", "18"], 0),  # one stem for both: the blank moves
    ],
)
def test_contrast(
    clean: int | float | str,
    corrupted: int | float | str,
    c: list[str],
    r: list[str],
    first: int | None,
) -> None:
    pair = contrast(llama3_tokenizer(), STEM, clean, corrupted, EOS)
    named = [
        [token.replace("<|end_of_text|>", "EOS") for token in words(side)]
        for side in (pair.clean, pair.corrupted)
    ]
    assert (*named, pair.first_difference) == (c, r, first)


@pytest.mark.parametrize(
    ("stem", "clean", "corrupted", "front", "c", "r", "first"),
    [
        ("### ", "Tom is one", "Tom is two", ["###"], [" Tom", " is", " one"], [" two"], 2),
        ("### ", "Tom is", "Tom is one", ["###"], [" Tom", " is", "EOS"], [" one", "EOS"], 2),
        ("### ", "one", "18", ["###"], [" one"], [" ", "18"], 0),
        ("### ", 18, 20, ["###", " "], ["18"], ["20"], 0),
        ("", "Tom is one", "Tom is two", [], ["Tom", " is", " one"], [" two"], 2),
    ],
)
def test_contrast_of_texts(
    stem: str,
    clean: int | str,
    corrupted: int | str,
    front: list[str],
    c: list[str],
    r: list[str],
    first: int,
) -> None:
    """`r` are the corrupted answer's tokens from the first that differs."""
    tokenizer = llama3_tokenizer(("### Tom is one two om",) * 3)
    pair = contrast(tokenizer, stem, clean, corrupted, EOS)
    named = [
        [
            token.replace("Ġ", " ").replace("<|end_of_text|>", "EOS")
            for token in tokenizer.convert_ids_to_tokens(list(side))
        ]
        for side in (pair.stem, pair.clean, pair.corrupted)
    ]
    assert named == [front, c, c[:first] + r]
    assert pair.first_difference == first


def test_answers_that_the_tokenizer_reads_alike_are_refused(tiny: HookedCodi) -> None:
    with pytest.raises(UserError, match="'Tom' and 'Ann' have the same tokens"):
        contrast(tiny.tokens.tokenizer, STEM, "Tom", "Ann", EOS)
    with pytest.raises(UserError, match="does not know every word of the answer 'Tom'"):
        tiny.tokens.answer("Tom")


@given(st.integers(-20_000, 20_000), st.integers(-20_000, 20_000))
def test_contrast_laws(clean: int, corrupted: int) -> None:
    pair = contrast(llama3_tokenizer(), STEM, clean, corrupted, EOS)
    mirrored = contrast(llama3_tokenizer(), STEM, corrupted, clean, EOS)
    assert mirrored == AnswerPair(pair.stem, pair.corrupted, pair.clean, pair.first_difference)
    t = pair.first_difference
    if clean == corrupted:
        assert t is None
        assert pair.clean == pair.corrupted
        return
    assert t is not None
    assert pair.clean[:t] == pair.corrupted[:t]
    assert pair.clean[t] != pair.corrupted[t]
    text = llama3_tokenizer().decode([*pair.stem, *pair.clean], skip_special_tokens=True)
    assert text == f"{STEM}{clean}"
