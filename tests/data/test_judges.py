"""Judges by themselves, and which of them decides."""

import pytest

from codi_lens import HookedCodi, UserError
from codi_lens.data.judges import JUDGES, is_right, register_judge
from tests.models.tiny import tiny_config, write_tiny

STEM = "### "


@pytest.mark.parametrize(
    ("text", "answer", "judge", "right"),
    [
        ("### Tom is a lempus.", "Tom is a lempus.", "text", True),
        ("### tom  is a\nLEMPUS", "Tom is a lempus.", "text", True),
        ("Tom is a lempus.", "Tom is a lempus", "text", True),
        ("### Tom is a lempus. Sally", "Tom is a lempus.", "text", False),
        ("### Tom is no lempus.", "Tom is a lempus.", "text", False),
        ("###", "Tom is a lempus.", "text", False),
        ("### 3,600", 3600, "text", False),  # text is compared with the spelling
        ("### 3600", "3,600", "text", True),
        ("### True", "True", "exact", True),
        ("True", "True", "exact", True),
        ("### true", "True", "exact", False),
        ("### True.", "True", "exact", False),
        ("### 18", 18, "exact", True),
        ("### 3,600", 3600, "number", True),
        ("### 3 ducks and 4 geese, so 7", 7, "number", True),
        ("### 18", 8, "number", False),
    ],
)
def test_each_judge(text, answer, judge, right):
    assert is_right(text, answer, judge=judge, stem=STEM) == right


def test_a_stem_with_a_number_is_read_by_the_official_way_and_cut_off_by_the_others():
    assert is_right("Answer 1: ", 1, stem="Answer 1: ")
    assert not is_right("Answer 1: ", 1, judge="exact", stem="Answer 1: ")


def test_without_a_judge_the_answer_decides():
    assert is_right("so it is 18.0", 18)
    assert is_right("so it is 18.0", "18")
    assert not is_right("so it is true", "True")
    assert is_right("true.", "True")


def test_what_cannot_judge_says_so():
    with pytest.raises(UserError, match=r"no judge 'close'; known are number, text, exact"):
        is_right("18", 18, judge="close")
    with pytest.raises(UserError, match=r'"number" cannot judge the answer \'True\'; use "text"'):
        is_right("18", "True", judge="number")


def test_the_call_comes_before_the_config_and_the_config_before_the_answer(tmp_path, monkeypatch):
    monkeypatch.setattr("codi_lens.data.judges.JUDGES", dict(JUDGES))
    register_judge("says anything", lambda text, answer: bool(text))
    config = tiny_config(judge="says anything", answer_stem="The answer is: ")
    tokens = HookedCodi.from_pretrained(write_tiny(tmp_path, config=config)).tokens
    assert tokens.config.judge == "says anything"
    assert tokens.is_right("The answer is: 7", 8)
    assert not tokens.is_right("The answer is: ", 8)  # a judge gets what is behind the stem
    assert not tokens.is_right("The answer is: 7", 8, "number")
