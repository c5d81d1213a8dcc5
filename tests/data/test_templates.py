"""The promises of the counterfactual generator, on ten thousand pairs."""

import random
from collections import Counter

import pytest

from codi_lens.data.answers import contrast
from codi_lens.data.pairs import Pair, Variant
from codi_lens.data.templates import ADDITIONS, PHRASINGS, SUBTRACTIONS, generate_pairs
from codi_lens.errors import UserError
from tests.models.llama3_tokenizer import llama3_tokenizer

N = 10_000
STEM = "The answer is: "


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return generate_pairs(N, seed=0)


def solved(pair: Pair, variant: Variant) -> tuple[str, int, tuple[int, int]]:
    """Question text, answer and intermediates, worked out again from the operands."""
    x, y, z = variant.operands
    step1 = {"add": x + y, "sub": x - y}[pair.kind or ""]
    texts = {text.format(x=x, y=y, z=z) for text in PHRASINGS[pair.kind or ""]}
    assert variant.question in texts
    return variant.question, step1 * (1 + z), (step1, step1 * z)


def test_there_are_twenty_phrasings_and_more() -> None:
    texts = {*ADDITIONS, *SUBTRACTIONS}
    assert len(texts) == len(ADDITIONS) + len(SUBTRACTIONS) >= 20
    for text in texts:
        assert [text.count(mark) for mark in ("{x}", "{y}", "{z}")] == [1, 1, 1]
        assert text.index("{x}") < text.index("{y}") < text.index("{z}")
        assert not any(letter.isdigit() for letter in text)


def test_operands_answers_and_intermediates(pairs: list[Pair]) -> None:
    for pair in pairs:
        for variant in (pair.clean, pair.corrupted):
            x, y, z = variant.operands
            assert 1 <= x <= 8
            assert 1 <= y <= 8
            assert 2 <= z <= 8
            assert pair.kind == "add" or x > y
            assert (variant.question, variant.answer, variant.intermediates) == solved(
                pair, variant
            )
            digits = [int(letter) for letter in variant.question if letter.isdigit()]
            assert digits == [x, y, z]


def test_one_operand_differs_and_the_answer_with_it(pairs: list[Pair]) -> None:
    for pair in pairs:
        clean, corrupted = pair.clean, pair.corrupted
        differing = [
            name
            for name, a, b in zip("xyz", clean.operands, corrupted.operands, strict=True)
            if a != b
        ]
        assert differing == [pair.operand]
        letters = zip(clean.question, corrupted.question, strict=True)
        assert sum(a != b for a, b in letters) == 1
        assert not pair.same_answer


def test_tokens_of_ten_thousand_pairs_are_aligned(pairs: list[Pair]) -> None:
    tokenizer = llama3_tokenizer((*ADDITIONS, *SUBTRACTIONS))
    questions = [side.question for pair in pairs for side in (pair.clean, pair.corrupted)]
    ids = tokenizer(questions, add_special_tokens=False)["input_ids"]
    for clean, corrupted in zip(ids[::2], ids[1::2], strict=True):
        assert sum(a != b for a, b in zip(clean, corrupted, strict=True)) == 1
    answers = {(pair.clean.answer, pair.corrupted.answer) for pair in pairs}
    for clean, corrupted in answers:
        assert contrast(tokenizer, STEM, clean, corrupted, eos_id=1).first_difference == 0


def test_pairs_are_distinct_and_evenly_spread(pairs: list[Pair]) -> None:
    assert [pair.pair_id for pair in pairs] == list(range(N))
    assert len({(pair.clean.question, pair.corrupted.question) for pair in pairs}) == N
    # 24 phrasings times 3 operands take turns: 10,000 / 72 = 138.9, so 138 or 139 each,
    # and no part of them runs out, as the smallest (x of "sub") holds 784.
    strata = Counter(
        (pair.kind, pair.operand, "".join(c for c in pair.clean.question if not c.isdigit()))
        for pair in pairs
    )
    assert len(strata) == 72
    assert set(strata.values()) == {138, 139}


def test_the_seed_decides_and_global_randomness_is_untouched() -> None:
    random.seed(5)
    state = random.getstate()
    first = generate_pairs(50, seed=1)
    random.seed(6)
    assert generate_pairs(50, seed=1) == first
    assert generate_pairs(50, seed=2) != first
    assert generate_pairs(20, seed=1) == first[:20]
    random.setstate(state)
    generate_pairs(5, seed=1)
    assert random.getstate() == state


def test_a_tokenizer_that_suits_changes_nothing() -> None:
    assert generate_pairs(100, 3, llama3_tokenizer()) == generate_pairs(100, 3)


class DigitTokenizer:
    """One token a character, but an 8 takes two: lengths and first answer digits can clash."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [ord(letter) for letter in text.replace("8", "88")]

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [chr(i) for i in ids]


def test_pairs_that_a_tokenizer_does_not_align_are_left_out() -> None:
    plain = generate_pairs(2000, seed=0)
    aligned = generate_pairs(1000, 0, DigitTokenizer())
    expected = [
        pair
        for pair in plain
        if str(pair.clean.answer)[0] != str(pair.corrupted.answer)[0]
        and pair.clean.question.count("8") == pair.corrupted.question.count("8")
    ]
    assert 0 < len(expected) < 2000
    shared = min(len(expected), len(aligned))
    assert [(p.clean, p.corrupted) for p in aligned[:shared]] == [
        (p.clean, p.corrupted) for p in expected[:shared]
    ]
    assert [pair.pair_id for pair in aligned] == list(range(1000))


def test_all_pairs_there_are() -> None:
    # Ordered changes of one operand. "add": x and y each 8*7*8*7 = 3136, z 64*7*6 = 2688.
    # "sub", x over y: for each y there are 8-y values of x, so 7*(7*6+6*5+5*4+4*3+3*2+2*1) = 784;
    # y the same by symmetry; z 28*7*6 = 1176. Times 12 phrasings of each kind.
    everything = 12 * (3136 + 3136 + 2688 + 784 + 784 + 1176)
    assert everything == 140_448
    assert len(generate_pairs(everything, seed=0)) == everything
    with pytest.raises(UserError, match="only 140448 can be made"):
        generate_pairs(everything + 1, seed=0)


@pytest.mark.parametrize("n", [0, -1])
def test_a_number_below_one_is_refused(n: int) -> None:
    with pytest.raises(UserError, match="from 1 up"):
        generate_pairs(n, seed=0)
