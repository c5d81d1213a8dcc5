"""The program that prepares pairs: what it writes, says and refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from codi_lens.cli.prepare_pairs import main
from codi_lens.data.pairs import Pair, Variant, load_pairs, pairs_digest, write_pairs

FLAT = Path(__file__).parents[1] / "files" / "flat_pairs.json"
SAME = [2, 3, 5, 8, 11, 13, 14, 17, 20]
REASON = "same answer on both sides"


def test_what_is_written_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "prepared"
    assert main([str(FLAT), "--out", str(out)]) == 0
    names = sorted(file.name for file in out.iterdir())
    assert names == ["pairs.json", "report.json", "set_aside.json"]
    kept = json.loads((out / "pairs.json").read_text(encoding="utf-8"))
    assert [entry["pair_id"] for entry in kept] == [0, 4, 7, 9, 21]
    assert kept[0] == {
        "pair_id": 0,
        "clean": {
            "question": "A baker fills 6 trays with 3 rolls each. How many rolls are there?",
            "answer": 18,
        },
        "corrupted": {
            "question": "A baker fills 7 trays with 3 rolls each. How many rolls are there?",
            "answer": 21,
        },
    }
    aside = json.loads((out / "set_aside.json").read_text(encoding="utf-8"))
    assert [(entry["pair_id"], entry["reason"]) for entry in aside] == [(i, REASON) for i in SAME]
    # |18-21|, |3600-360|, |-5+8|, |2.5-2.75|, |1200-1500| = 3, 3240, 3, 0.25, 300: sum 3546.25
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == {
        "read": 14,
        "kept": 5,
        "set_aside": [{"pair_id": i, "reason": REASON} for i in SAME],
        "answer_difference": {"min": 0.25, "max": 3240, "mean": 709.25},
        "duplicates": [],
        "ignored_fields": {"needs_cot": 2, "reasoning_steps": 28},
        "pairs_digest": pairs_digest(load_pairs(out / "pairs.json")),
    }
    assert capsys.readouterr().out.splitlines() == [
        "14 pairs read, 5 kept, 9 set aside",
        *[f"  pair {i}: {REASON}" for i in SAME],
        "|clean - corrupted| answers of the pairs kept: min 0.25, max 3240, mean 709.25",
        "fields left out (entries that had them): needs_cot (2), reasoning_steps (28)",
        f"written to {out}",
    ]


def test_set_aside_pairs_stay_usable_and_preparing_again_changes_nothing(tmp_path: Path) -> None:
    assert main([str(FLAT), "--out", str(tmp_path)]) == 0
    given = {pair.pair_id: pair for pair in load_pairs(FLAT)}
    assert {pair.pair_id: pair for pair in load_pairs(tmp_path)} == given
    before = {name: (tmp_path / name).read_bytes() for name in ("pairs.json", "set_aside.json")}
    assert main([str(tmp_path), "--out", str(tmp_path)]) == 0
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_duplicates_are_named_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = Variant("One?", 1), Variant("Two?", 2)
    sides = [(one, other), (other, one), (one, other), (one, one), (one, other)]
    write_pairs(tmp_path / "given.json", [Pair(i, *both) for i, both in enumerate(sides)])
    assert main([str(tmp_path / "given.json"), "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["kept"], report["duplicates"]) == (4, [[0, 2, 4]])
    assert "duplicates: pairs 0, 2, 4 ask the same two questions" in capsys.readouterr().out


def test_nothing_kept_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(tmp_path / "given.json", [Pair(0, Variant("A?", 1), Variant("B?", 1))])
    assert main([str(tmp_path / "given.json"), "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["answer_difference"] is None
    assert "|clean" not in capsys.readouterr().out
    assert [pair.same_answer for pair in load_pairs(tmp_path / "out")] == [True]


def test_bad_input_is_listed_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = json.loads(FLAT.read_text(encoding="utf-8"))
    entries[0]["answer"] = None
    del entries[5]["question"]
    file, out = tmp_path / "damaged.json", tmp_path / "out"
    file.write_text(json.dumps(entries))
    assert main([str(file), "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        f"error: {file} has 2 fault(s):",
        "  pair 0, clean: answer: expected a number with a plain spelling, or text that is not blank, found null",
        "  pair 3, corrupted: question: missing, expected text that is not blank",
    ]
    assert not out.exists()


def test_output_over_the_input_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pairs.json"
    file.write_bytes(FLAT.read_bytes())
    assert main([str(file), "--out", str(tmp_path)]) == 2
    assert "give another folder as --out" in capsys.readouterr().err
    assert file.read_bytes() == FLAT.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["pairs.json"]


def test_an_output_folder_that_is_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    assert main([str(FLAT), "--out", str(out)]) == 2
    assert f"cannot write to {out}: File exists" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.prepare_pairs", "absent.json", "--out", "out"]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: cannot read pairs from absent.json: No such file")
    assert len(ended.stderr.splitlines()) == 1
    assert not (root / "out").exists()
