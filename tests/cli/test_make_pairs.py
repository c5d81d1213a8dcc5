"""The program that makes pairs: what it writes, says and refuses; and a patching program on what it wrote."""

import json
from pathlib import Path

import pytest

from codi_lens.cli import make_pairs, position_patching
from codi_lens.data.pairs import load_pairs, pairs_digest
from codi_lens.records.read import load

BARE = [
    "14 hens meet 25 hens. How many hens?||<<14+25=39>> #### 39",
    "A hen lays 6 eggs. How many do six hens lay?||<<6*6=36>> #### 36",
    "Bo has 40 nuts and eats 7.  How many are left?||<<40-7=33>> #### 33",
    "Many hens?||#### 3",
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "problems.txt"
    file.write_text("\n".join(BARE))
    return file


def test_what_is_written_and_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "made"
    assert make_pairs.main(["gsm8k-aug", "--data", str(data), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2 pairs made, 2 problems refused",
        "      1  the number turns up elsewhere in the question",
        "      1  the solution has no annotated step",
        f"written to {out}",
    ]
    names = sorted(file.name for file in out.iterdir())
    assert names == ["pairs.json", "refused.json", "report.json", "set_aside.json"]
    pairs = load_pairs(out)
    assert pairs == load_pairs(out / "pairs.json")
    assert [pair.pair_id for pair in pairs] == [0, 2]
    assert pairs[1].clean.question == "Bo has 40 nuts and eats 7.  How many are left?"
    assert json.loads((out / "refused.json").read_text()) == [
        {"id": 1, "reason": "the number turns up elsewhere in the question"},
        {"id": 3, "reason": "the solution has no annotated step"},
    ]
    report = json.loads((out / "report.json").read_text())
    assert (report["kept"], report["pairs_digest"]) == (2, pairs_digest(pairs))


def test_more_changes_smaller_ones_and_a_sample(data: Path, tmp_path: Path) -> None:
    flags = ["gsm8k", "--data", str(data), "--changes", "3", "--minimal", "--out"]
    assert make_pairs.main([*flags, str(tmp_path / "all")]) == 0
    made = load_pairs(tmp_path / "all")
    assert [pair.pair_id for pair in made] == [0, 1, 2, 6, 7, 8]
    assert {pair.change.clean for pair in made[:3] if pair.change} == {"14", "25"}
    assert make_pairs.main([*flags, str(tmp_path / "few"), "--sample", "2", "--seed", "1"]) == 0
    assert len(load_pairs(tmp_path / "few")) == 2


def test_templates_are_made_for_a_tokenizer(tmp_path: Path) -> None:
    fit = ["--tokenizer", "toy", "--single-tokens", "--same-length"]
    given = ["templates", "--sample", "6", *fit, "--out", str(tmp_path / "made")]
    assert make_pairs.main(given) == 0
    assert len(load_pairs(tmp_path / "made")) == 6


def test_what_was_made_is_patched_and_its_record_says_what_was_changed(tmp_path: Path) -> None:
    question = (
        "Tom has 2 stamps and buys 6 more. Each of the stamps costs 5 coins. "
        "How many coins are they worth?"
    )
    data, made, run = tmp_path / "problems.txt", tmp_path / "made", tmp_path / "run"
    data.write_text(f"{question}||<<2+6=8>> <<8*5=40>> #### 40\n")
    assert make_pairs.main(["gsm8k", "--data", str(data), "--out", str(made)]) == 0
    flags = ["--pairs", str(made), "--layers", "0", "--positions", "0", "--out", str(run)]
    assert position_patching.main(flags) == 0
    (pair,) = (outcome.pair for outcome in load(run).outcomes)
    assert [pair] == load_pairs(made)
    assert pair.change is not None
    assert (pair.change.steps, pair.clean.intermediates) == (2, (8,))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["templates", "--data", "x"], "templates has no --data; gsm8k, gsm8k-aug, prosqa have"),
        (["prosqa", "--minimal"], "prosqa has no --minimal; gsm8k, gsm8k-aug have"),
        (["templates", "--changes", "2"], "templates has no --changes"),
        (["gsm8k", "--changes", "0"], "--changes is 0; it must be 1 or more"),
        (["gsm8k", "--tokenizer", "toy"], "add --single-tokens, --same-length or both"),
        (["gsm8k", "--same-length"], "add --tokenizer NAME"),
        (["gsm8k", "--data", "absent.jsonl"], "cannot read a data set from absent.jsonl"),
        (["prosqa", "--data", "{data}"], "0 pairs made, 4 problems refused\n      4  the graph"),
        (["gsm8k", "--data", "{data}", "--sample", "3"], "3 pairs were asked for, there are 2"),
    ],
)
def test_what_cannot_be_made_leaves_nothing(
    flags: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    asked = [flag.format(data=data) for flag in flags]
    assert make_pairs.main([*asked, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_in_use_is_left_alone(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["gsm8k", "--data", str(data), "--out", str(data.parent)]
    assert make_pairs.main(given) == 2
    assert "is not empty; give a fresh one as --out" in capsys.readouterr().err
