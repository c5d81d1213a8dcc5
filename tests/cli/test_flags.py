"""The programs by name, and what their --help says."""

import argparse
import subprocess
import sys
from argparse import BooleanOptionalAction
from importlib import import_module
from pathlib import Path

import pytest

from codi_lens.cli.flags import HelpFormatter
from codi_lens.cli.main import NAMES, main, program
from codi_lens.errors import command

ROOT = Path(__file__).parents[2]
IN_EXPERIMENTS = {path.stem: path for path in (ROOT / "experiments").glob("[!_]*.py")}


def test_every_program_has_its_command_and_its_module():
    assert {*NAMES} | {"benchmark", "load_benchmark"} == set(IN_EXPERIMENTS)
    for name in NAMES:
        module = import_module(f"experiments.{name}")
        assert module.main is program(name)
        assert module.__doc__.splitlines()[0] == program(name).summary
        assert len(IN_EXPERIMENTS[name].read_text().splitlines()) < 20


@pytest.mark.parametrize("name", IN_EXPERIMENTS)
def test_every_flag_says_what_it_is_and_its_default_once(name):
    parser = import_module(f"experiments.{name}").main.parser()
    formatter = HelpFormatter(parser.prog)
    assert parser.description
    for action in parser._actions:
        flag = action.option_strings or [action.dest]
        assert action.help, f"{flag} has no text"
        said = formatter._expand_help(action)
        assert "None" not in said, flag
        takes_none = not action.option_strings or action.required or action.nargs == 0
        asks_for_more = action.dest in ("resume", "images", "measure")
        if not isinstance(action, BooleanOptionalAction):  # of two names, and of no value
            assert said.count("(default: ") == (not takes_none and not asks_for_more), said
        assert not action.choices or action.metavar is None, f"{flag} hides its choices"


def test_the_command_lists_its_programs(capsys):
    assert main([]) == main(["--help"]) == 0
    said = capsys.readouterr().out
    for name in NAMES:
        assert f"  {name} " in said
        assert program(name).summary in said


def test_the_overview_is_quick_to_come():
    code = """
import sys
from codi_lens.cli.main import main
main(["--help"])
assert not {"plotly", "wandb", "peft", "torch", "tqdm", "numpy"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_program_is_refused_with_those_that_there_are(capsys):
    assert main(["positions"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: no program 'positions'; known are doctor, necessity, evaluate, ")


@pytest.mark.parametrize(
    ("started", "called"),
    [
        ("/usr/bin/codi-lens", "codi-lens compare"),
        ("codi-lens.exe", "codi-lens compare"),
        ("experiments/compare.py", "python -m experiments.compare"),
        ("ipykernel_launcher.py", "python -m experiments.compare"),
    ],
)
def test_messages_advise_the_command_that_was_used(monkeypatch, capsys, started, called):
    monkeypatch.setattr(sys, "argv", [started])
    assert command("compare", "a b") == f"{called} 'a b'"
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert capsys.readouterr().out.startswith(f"usage: {called} [-h]")


def test_a_program_is_the_same_by_either_name(capsys, tmp_path):
    for call in (main, lambda argv: program(argv[0])(argv[1:])):
        assert call(["compare", str(tmp_path)]) == 2
        assert "holds no finished record" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given", [["necessity", "--out"], ["inspect_checkpoint"], ["report"], ["compare", "a"]]
)
def test_what_is_not_utf_8_is_refused_before_any_work(tmp_path, monkeypatch, capsys, given):
    monkeypatch.chdir(tmp_path)
    assert main([*given, "b\udcff"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(r"error: the argument 'b\udcff' is not UTF-8; give a path")
    assert not list(tmp_path.iterdir())


def test_a_default_is_added_where_there_is_one():
    parser = argparse.ArgumentParser(formatter_class=HelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="a number")
    parser.add_argument("--out", help="a folder (default: none)")
    parser.add_argument("--debug", action="store_true", help="more")
    said = parser.format_help()
    assert "a number (default: 0)" in said
    assert "a folder (default: none)" in said
    assert said.count("default") == 2
