"""An evaluation on disk: stopped and gone on with, its files, its program."""

import json
import shutil

import pytest

from codi_lens import HookedCodi, UserError, records
from codi_lens.checkpoint import known
from codi_lens.cli import evaluate as program
from codi_lens.data.datasets import load_dataset
from codi_lens.records import stopping
from codi_lens.records.evaluating import EVALUATION, QUESTIONS
from codi_lens.records.manifest import JOURNAL
from codi_lens.records.read import RecordError
from codi_lens.records.stopping import Interrupted
from tests.models.tiny import write_tiny

PROBLEMS = [{"question": f"{i} plus {i % 7}?  ", "answer": i} for i in range(1, 23)]
FLAGS = ["--batch", "5", "--dtype", "float64"]


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    write_tiny(folder / "model", seed=13)
    (folder / "set.json").write_text(json.dumps(PROBLEMS))
    return [*FLAGS, "--model", str(folder / "model"), "--data", str(folder / "set.json")]


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert program.main([*flags, "--out", str(folder)]) == 0
    return folder


def files(folder):
    journal = (folder / JOURNAL).read_bytes().split(b"\n")[1:]  # the first line knows the folder
    return journal, (folder / QUESTIONS).read_text(), (folder / EVALUATION).read_text()


@pytest.fixture
def stopped(flags, tmp_path, monkeypatch, capsys):
    """A run that Ctrl-C stops after its second batch."""
    asked = iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(stopping.CtrlC, "pressed", property(lambda _: next(asked) == 2))
        assert program.main([*flags, "--out", str(tmp_path / "run")]) == 130
    said = capsys.readouterr().err
    assert "interrupted: 10 of 22 questions are done; go on with\n" in said
    assert f"evaluate --resume {tmp_path / 'run'}" in said
    return tmp_path / "run"


def test_an_evaluation_that_was_stopped_goes_on_to_equal_files(stopped, whole, capsys):
    assert [path.name for path in stopped.iterdir()] == [JOURNAL]
    assert program.main(["--resume", str(stopped)]) == 0
    assert "going on: 10 of 22 questions are there" in capsys.readouterr().err
    assert files(stopped) == files(whole)
    before = (stopped / JOURNAL).read_bytes()
    assert program.main(["--resume", str(stopped)]) == 0  # a finished one is read back
    assert (stopped / JOURNAL).read_bytes() == before
    assert files(stopped) == files(whole)


def test_a_torn_line_is_asked_again(stopped, whole):
    content = (stopped / JOURNAL).read_bytes()
    (stopped / JOURNAL).write_bytes(content[:-40])
    assert program.main(["--resume", str(stopped)]) == 0
    assert files(stopped) == files(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--limit", "3"], "--limit (there None, here 3)"),
        (["--question-as-written"], "--question-as-written (there False, here True)"),
    ],
)
def test_an_evaluation_goes_on_with_its_own_flags_alone(stopped, change, message, capsys):
    assert program.main(["--resume", str(stopped), *change]) == 2
    assert message in capsys.readouterr().err


def test_other_questions_or_lines_are_refused(stopped, flags, whole, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(stopped, moved)
    lines = (moved / JOURNAL).read_bytes().split(b"\n")
    (moved / JOURNAL).write_bytes(b"\n".join([*lines[:2], *lines[1:]]))
    assert program.main(["--resume", str(moved)]) == 2
    assert "line 3 is not of questions that were still to be asked" in capsys.readouterr().err
    (tmp_path / "less.json").write_text(json.dumps(PROBLEMS[:-1]))
    codi = HookedCodi.from_pretrained(flags[flags.index("--model") + 1], dtype="float64")
    with pytest.raises(RecordError, match=r"cannot be resumed: data\.n \(there 22, here 21\)"):
        records.evaluate(codi, load_dataset(tmp_path / "less.json"), stopped, batch=5)
    with pytest.raises(UserError, match="there is a run in"):
        records.evaluate(codi, load_dataset(tmp_path / "less.json"), stopped, resume=False)
    assert program.main([*flags, "--out", str(stopped)]) == 2
    assert "is not empty; give a fresh one as --out, or go on" in capsys.readouterr().err


def test_a_notebook_s_call_stops_and_goes_on_too(flags, whole, tmp_path, monkeypatch):
    codi = HookedCodi.from_pretrained(flags[flags.index("--model") + 1], dtype="float64")
    dataset = load_dataset(flags[flags.index("--data") + 1])
    with monkeypatch.context() as patch:
        patch.setattr(stopping.CtrlC, "pressed", property(lambda _: True))
        with pytest.raises(Interrupted, match="0 of 22 questions are done; go on with\n  the same"):
            records.evaluate(codi, dataset, tmp_path, batch=5, progress=False)
    found = records.evaluate(codi, dataset, tmp_path, batch=5, progress=False)
    assert files(tmp_path)[0] == files(whole)[0]
    assert found.conditions == records.evaluate(codi, dataset, tmp_path, batch=5).conditions


def test_what_is_written_and_said(flags, whole, monkeypatch, capsys, tmp_path):
    codi = HookedCodi.from_pretrained(flags[flags.index("--model") + 1], dtype="float64")
    rows = [json.loads(line) for line in (whole / QUESTIONS).read_text().splitlines()]
    record = json.loads((whole / EVALUATION).read_text())
    assert [row["id"] for row in rows] == list(range(22))
    for row, problem in zip(rows, PROBLEMS, strict=True):
        assert (row["question"], row["answer"]) == (problem["question"].strip(), problem["answer"])
        text = codi.generate(row["question"])
        right = codi.tokens.is_right(text, row["answer"])
        assert row["conditions"]["3 latents"] == {"text": text, "right": right}
    for condition in record["conditions"]:
        name = condition["condition"]
        assert condition["right"] == sum(row["conditions"][name]["right"] for row in rows)
        assert condition["n"] == record["data"]["n"] == 22
    assert (record["published"], record["verdict"]) == (None, None)

    model = flags[flags.index("--model") + 1]
    published = {"gsm8k": {"accuracy": 0.995, "source": "a paper"}}
    table = known._table()
    more = {"checkpoints": {**table["checkpoints"], model: {"published": published}}}
    monkeypatch.setattr(known, "_table", lambda: table | more)
    monkeypatch.setattr("codi_lens.data.datasets.KNOWN", {record["data"]["digest"]: "gsm8k"})
    capsys.readouterr()
    assert program.main([*flags, "--out", str(tmp_path / "known")]) == 0
    said = capsys.readouterr().out
    assert "published                   99.5%   a paper" in said
    assert "below the published 99.5% (a paper): " in said
    assert (
        json.loads((tmp_path / "known" / EVALUATION).read_text())["published"] == published["gsm8k"]
    )
