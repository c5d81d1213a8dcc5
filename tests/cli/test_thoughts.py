"""The program thoughts, as its users run it."""

from codi_lens.cli import thoughts

QUESTION = "Max has 2 shells and buys 8 more. Each of the shells costs 5 coins. How many coins are they worth?"


def test_a_question_becomes_a_page(tmp_path, capsys):
    page = tmp_path / "new" / "page.html"
    assert thoughts.main([QUESTION, "--out", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "answer 50, probability 0.93" in shown
    assert QUESTION in page.read_text(encoding="utf-8")
    assert thoughts.main(["--pair", "5", "--out", str(page)]) == 0
    assert "answer 54" in capsys.readouterr().out


def test_what_cannot_be_asked_is_refused(tmp_path, capsys):
    page = tmp_path / "page.html"
    for arguments, message in (
        ([], "give a question in quotes, or the number of a pair as --pair"),
        ([QUESTION, "--pair", "5"], "one of the two"),
        (["--pair", "999"], "no pair 999 in toy; there are 60, numbered 0 to 59"),
        (["How fluffy is it?"], "the tokenizer does not know every word of"),
        (["--pair", "5", "--tuned", str(tmp_path)], "holds no tuned_lens.safetensors"),
        ([QUESTION, "--out", str(tmp_path)], "is a folder; give the page a name"),
    ):
        assert thoughts.main(["--out", str(page), *arguments]) == 2
        assert message in capsys.readouterr().err
        assert not page.exists()
