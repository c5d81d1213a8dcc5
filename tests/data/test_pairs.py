"""Reading pairs in both formats, whole and damaged."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from codi_lens import shipped
from codi_lens.data.pairs import (
    CHANGE,
    Pair,
    Variant,
    load_pairs,
    pair_as_json,
    pairs_digest,
    read_pairs,
    write_json,
    write_pairs,
)
from codi_lens.data.prepare import prepare
from codi_lens.errors import UserError

FLAT = Path(__file__).parents[1] / "files" / "flat_pairs.json"
GSM8K = Path(__file__).parents[3] / "shared" / "data" / "llama_clean_corrupted_pairs.json"

ONE = {
    "pair_id": 3,
    "clean": {
        "question": " Two and three?\n",
        "answer": 5,
        "operands": [2, 3],
        "intermediates": [5],
    },
    "corrupted": {"question": "Two and four?", "answer": 6.0},
    "kind": "add",
    "operand": "y",
}
PAIR = Pair(
    3, Variant(" Two and three?\n", 5, (2, 3), (5,)), Variant("Two and four?", 6), "add", "y"
)


CHANGED = {"clean": "three", "corrupted": "four", "places": [9], "steps": 1, "enters": 1}


def flat_entries(pair_id: int = 3) -> list[dict[str, Any]]:
    return [
        {"pair_id": pair_id, "variant": "clean", "question": "Two and three?", "answer": 5},
        {"pair_id": pair_id, "variant": "corrupted", "question": "Two and four?", "answer": 6},
    ]


def read(folder: Path, content: Any) -> list[Pair]:
    file = folder / "given.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return load_pairs(file)


def faults(folder: Path, content: Any) -> list[str]:
    """The faults listed in the one error that reading raises."""
    with pytest.raises(UserError) as error:
        read(folder, content)
    heading, *lines = str(error.value).splitlines()
    assert f"has {len(lines)} fault(s)" in heading
    return [line.strip() for line in lines]


def test_prepared_format(tmp_path: Path) -> None:
    assert read(tmp_path, [ONE]) == [PAIR]
    assert type(load_pairs(tmp_path / "given.json")[0].corrupted.answer) is int


def test_flat_format_in_any_order_keeps_the_order_of_first_mention(tmp_path: Path) -> None:
    entries = flat_entries(8) + flat_entries(3)
    entries = [entries[1], entries[3], entries[2], entries[0]]
    entries[0]["operands"] = [2, 4]
    pairs = read(tmp_path, entries)
    assert [pair.pair_id for pair in pairs] == [8, 3]
    assert pairs[0].clean == Variant("Two and three?", 5)
    assert pairs[0].corrupted == Variant("Two and four?", 6, (2, 4))


def test_the_flat_fixture() -> None:
    pairs, ignored = read_pairs(FLAT)
    assert [pair.pair_id for pair in pairs if pair.same_answer] == [2, 3, 5, 8, 11, 13, 14, 17, 20]
    assert len(pairs) == 14
    assert ignored == {"needs_cot": 2, "reasoning_steps": 28}
    by_id = {pair.pair_id: pair for pair in pairs}
    assert by_id[7].clean.answer == -5
    assert by_id[9].corrupted.answer == 2.75
    assert by_id[13].clean.question.startswith("Zoë has 5")


@pytest.mark.skipif(not GSM8K.exists(), reason="the 66 GSM8K pairs are not part of the repository")
def test_the_66_pairs() -> None:
    report = prepare(GSM8K)
    assert len(report.kept) == 57
    set_aside = [one.pair.pair_id for one in report.set_aside]
    assert set_aside == [12, 55, 229, 287, 334, 397, 465, 475, 555]
    assert {one.reason for one in report.set_aside} == {"same answer on both sides"}
    difference = report.answer_difference
    assert difference is not None
    assert (difference["min"], difference["max"]) == (1, 3600)
    assert round(difference["mean"], 1) == 112.7
    assert report.duplicates == ()


def test_a_folder_gives_the_pairs_set_aside_as_well(tmp_path: Path) -> None:
    aside = Pair(4, Variant("One?", 1), Variant("Also one?", 1))
    write_pairs(tmp_path / "pairs.json", [PAIR])
    assert load_pairs(tmp_path) == [PAIR]
    write_json({tmp_path / "set_aside.json": [{**pair_as_json(aside), "reason": "same answer"}]})
    pairs, ignored = read_pairs(tmp_path)
    assert pairs == [PAIR, aside]
    assert [pair.same_answer for pair in pairs] == [False, True]
    assert ignored == {}
    assert load_pairs(str(tmp_path / "pairs.json")) == [PAIR]


def test_toy_is_the_file_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shipped.PAIRS, "toy", tmp_path / "pairs.json")
    write_pairs(tmp_path / "pairs.json", [PAIR])
    assert load_pairs("toy") == [PAIR]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"pair_id": None}, "entry 0: pair_id: expected an integer, found null"),
        ({"pair_id": "3"}, 'entry 0: pair_id: expected an integer, found "3"'),
        ({"pair_id": True}, "entry 0: pair_id: expected an integer, found true"),
        ({"pair_id": 3.0}, "entry 0: pair_id: expected an integer, found 3.0"),
        ({"clean": "Two?"}, 'pair 3: clean: expected question and answer, found "Two?"'),
        ({"corrupted": None}, "pair 3: corrupted: expected question and answer, found null"),
        ({"kind": 4}, "pair 3: kind: expected text, found 4"),
        ({"operand": ["x"]}, "pair 3: operand: expected text, found a list"),
        *[
            (
                {"change": {**CHANGED, **damage}},
                f"pair 3: change: expected {CHANGE}, found an object",
            )
            for damage in ({"places": 4}, {"enters": "1"}, {"clean": None}, {"more": 1})
        ],
        ({"change": "3 to 4"}, f'pair 3: change: expected {CHANGE}, found "3 to 4"'),
    ],
)
def test_bad_fields_of_a_prepared_entry(tmp_path: Path, change: Any, fault: str) -> None:
    assert faults(tmp_path, [{**ONE, **change}]) == [fault]


PLAIN = "a number with a plain spelling, or text that is not blank"


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("question", "", 'question: expected text that is not blank, found ""'),
        ("question", " \n\t", r'question: expected text that is not blank, found " \n\t"'),
        ("question", 5, "question: expected text that is not blank, found 5"),
        ("question", "\ud800", r'question: expected text that is not blank, found "\ud800"'),
        ("answer", None, f"answer: expected {PLAIN}, found null"),
        ("answer", True, f"answer: expected {PLAIN}, found true"),
        ("answer", " ", f'answer: expected {PLAIN}, found " "'),
        ("answer", "\ud800", rf'answer: expected {PLAIN}, found "\ud800"'),
        ("answer", [6], f"answer: expected {PLAIN}, found a list"),
        ("answer", float("nan"), f"answer: expected {PLAIN}, found NaN"),
        ("answer", float("-inf"), f"answer: expected {PLAIN}, found -Infinity"),
        ("answer", 1e-9, f"answer: expected {PLAIN}, found 1e-09"),
        ("answer", 10**400, f"answer: expected {PLAIN}, found 1{'0' * 56}..."),
        ("operands", 3, "operands: expected a list of integers, found 3"),
        ("operands", [3, 2.5], "operands: expected a list of integers, found a list"),
        (
            "intermediates",
            [2, True],
            "intermediates: expected a list of numbers and texts, found a list",
        ),
    ],
)
def test_bad_fields_of_a_variant_in_both_formats(
    tmp_path: Path, field: str, value: Any, fault: str
) -> None:
    prepared = copy.deepcopy(ONE)
    prepared["corrupted"][field] = value  # type: ignore[index]
    assert faults(tmp_path, [prepared]) == [f"pair 3, corrupted: {fault}"]
    flat = flat_entries()
    flat[1][field] = value
    assert faults(tmp_path, flat) == [f"pair 3, corrupted: {fault}"]


def test_missing_fields(tmp_path: Path) -> None:
    flat = flat_entries()
    del flat[0]["question"], flat[1]["answer"]
    assert faults(tmp_path, flat) == [
        "pair 3, clean: question: missing, expected text that is not blank",
        f"pair 3, corrupted: answer: missing, expected {PLAIN}",
    ]
    assert faults(tmp_path, [{"pair_id": 1}, {}]) == [
        "pair 1: clean: missing, expected question and answer",
        "pair 1: corrupted: missing, expected question and answer",
        "entry 1: pair_id: missing, expected an integer",
        "entry 1: clean: missing, expected question and answer",
        "entry 1: corrupted: missing, expected question and answer",
    ]


def test_lone_doubled_and_unknown_variants(tmp_path: Path) -> None:
    assert faults(tmp_path, flat_entries()[:1]) == [
        "pair 3: corrupted: missing, expected question and answer"
    ]
    again = {**flat_entries()[0], "answer": None}
    assert faults(tmp_path, [*flat_entries(), again]) == [
        "pair 3, clean: variant: given twice",
        f"pair 3, clean: answer: expected {PLAIN}, found null",
    ]
    odd = {**flat_entries()[1], "variant": "dirty"}
    assert faults(tmp_path, [flat_entries()[0], odd]) == [
        'pair 3: variant: expected "clean" or "corrupted", found "dirty"',
        "pair 3: corrupted: missing, expected question and answer",
    ]


def test_pair_ids_are_unique_and_unknown_ones_do_not_clash(tmp_path: Path) -> None:
    assert faults(tmp_path, [ONE, ONE]) == ["pair 3: pair_id: given twice"]
    nameless = {**ONE, "pair_id": None}
    assert faults(tmp_path, [nameless, nameless]) == [
        "entry 0: pair_id: expected an integer, found null",
        "entry 1: pair_id: expected an integer, found null",
    ]


def test_every_fault_of_a_file_is_listed(tmp_path: Path) -> None:
    entries: list[Any] = [*flat_entries(1), *flat_entries(2), *flat_entries(4), "five"]
    entries[0]["answer"] = None
    entries[3]["question"] = ""
    del entries[4]["pair_id"]
    assert faults(tmp_path, entries) == [
        'entry 6: expected an object, found "five"',
        "entry 4: pair_id: missing, expected an integer",
        f"pair 1, clean: answer: expected {PLAIN}, found null",
        'pair 2, corrupted: question: expected text that is not blank, found ""',
        "pair 4: clean: missing, expected question and answer",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"[]", "holds no pairs"),
        (b"{}", "holds an object; a JSON list of pairs would do"),
        (b"null", "holds null; a JSON list"),
        (b"[{", "is not readable JSON"),
        (b"[" * 100_000, "is not readable JSON"),
        (b'["\xff"]', "not UTF-8 text"),
        (b"[" + b"1" * 5000 + b"]", "is not readable JSON"),
    ],
)
def test_files_that_hold_no_pairs(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "given.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_pairs(file)
    assert str(file) in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"No such file or directory; give a JSON file .* or a name: toy, "
    ):
        load_pairs(tmp_path / "absent.json")
    with pytest.raises(UserError, match=r"pairs\.json: No such file"):
        load_pairs(tmp_path)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "given.json"
    file.write_text(json.dumps([ONE]), encoding="utf-8-sig")
    assert load_pairs(file) == [PAIR]


def test_the_digest_is_that_of_canonical_json() -> None:
    pair = Pair(1, Variant("é?", 2.0), Variant("b?", 2.5, (1,), (3, 4)), operand="x")
    canonical = (
        r'[{"clean":{"answer":2,"question":"\u00e9?"},"corrupted":{"answer":2.5,'
        r'"intermediates":[3,4],"operands":[1],"question":"b?"},"operand":"x","pair_id":1}]'
    )
    assert pairs_digest([pair]) == hashlib.sha256(canonical.encode()).hexdigest()
    assert pairs_digest([pair, PAIR]) != pairs_digest([PAIR, pair])
