"""Every command and every snippet of the README, run."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from codi_lens.checkpoint.config import CodiConfig
from codi_lens.cli import iterative_patching, layer_patching

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    for line in block.strip().splitlines()
]
PROGRAMS = [line for line in COMMANDS if line.startswith("python -m experiments.")]
LAUNCHED = [line for line in COMMANDS if line.startswith("accelerate launch ")]
QUICK = {
    "benchmark": ["--repeats", "1", "--sample", "1"],
    "necessity": ["--limit", "4"],
    "evaluate": ["--limit", "4"],
    "position_patching": ["--limit", "3"],
    "layer_patching": ["--limit", "3"],
    "iterative_patching": ["--limit", "3"],
    "routes": ["--limit", "3"],
    "path_patching": ["--limit", "3"],
    "knockout": ["--limit", "3"],
    "influence": ["--limit", "3"],
    "circuit": ["--limit", "2", "--edges", "4"],
    "subspaces": ["--learning-steps", "2", "--limit", "8"],
    "lens": ["--limit", "3"],
    "probes": ["--limit", "6", "--layers", "thought"],
    "steering": ["--limit", "12", "--strengths", "0,1"],
    "attention": ["--limit", "3"],
    "logit_attribution": ["--limit", "3"],
    "attribution": ["--limit", "3", "--fidelity-cells", "20"],
    "scorecard": ["--organisms", "dense", "--methods", "logit lens"],
    "certify": ["--problems", "40"],
    "train_toy": ["--steps", "4", "--pairs", "0", "--threads", "1", "--limit", "8"],
}
"""What makes a command of the README quick enough for a test, without changing what it does."""
IN_ITS_OWN_PROCESS = ("benchmark", "train_toy", "position_patching")
"""Whose times count, which compute much, or which stand for all; the others are called where torch is loaded."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs, for commands that read runs."""
    folder = tmp_path_factory.mktemp("runs")
    for name, program in (("layer", layer_patching), ("iterative", iterative_patching)):
        assert program.main(["--limit", "3", "--out", str(folder / name)]) == 0
    return folder


@pytest.mark.parametrize("command", PROGRAMS)
def test_a_command_of_the_readme(command, runs, tmp_path, capsys):
    words = shlex.split(command)
    name = words[2].removeprefix("experiments.")
    folders = iter([runs / "layer", runs / "iterative"])
    filled = []
    for word in words[3:]:
        value = {
            "FILE": ROOT / "tests/files/flat_pairs.json",
            "FOLDER": tmp_path / "made",
            "PROBLEMS": ROOT / "tests/files/problems.txt",
            "report.html": tmp_path / "report.html",
        }.get(word, word)
        filled.append(str(next(folders) if word == "RUN" else value))
    if "--out" not in filled and name not in ("inspect_checkpoint", "certify"):
        filled += ["--out", str(tmp_path / "out")]
    arguments = [*filled, *QUICK.get(name, [])]
    if name not in IN_ITS_OWN_PROCESS:
        assert import_module(words[2]).main(arguments) == 0, capsys.readouterr().err
        return
    done = subprocess.run(
        [sys.executable, "-m", words[2], *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # tests run side by side, and the model is small
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_launches_several_processes(tmp_path):
    (command,) = LAUNCHED
    words = [*shlex.split(command)[2:], "--limit", "3", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/manifest.json").read_text())["config"]["processes"] == 2


def test_every_program_is_in_the_readme():
    programs = {path.stem for path in (ROOT / "experiments").glob("[!_]*.py")}
    named = set(re.findall(r"experiments\.(\w+)", README))
    assert programs <= named | {"load_benchmark"}


def test_the_first_screen_has_the_two_commands_and_ci_runs_the_second():
    first_screen = "\n".join(README.splitlines()[:22])
    install = "pip install -e . && python -m experiments.position_patching"
    test = "pip install -e '.[dev]' && pytest"
    assert install in first_screen
    assert test in first_screen
    assert f"\n{test}\n" in (ROOT / ".ci" / "run").read_text()
    assert set(COMMANDS) == {install, test, *PROGRAMS, *LAUNCHED}


def test_the_python_of_the_readme_runs(monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    import plotly.graph_objects as go

    monkeypatch.setattr(go.Figure, "show", lambda self, **_: None)
    scope = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert scope["sweep"].metrics["recovery"].shape[0] == 60


def test_the_config_of_the_readme_is_one():
    (block,) = re.findall(r"```json\n(.*?)```", README, flags=re.DOTALL)
    CodiConfig.from_mapping(json.loads(block), "README.md")


def test_the_files_that_the_readme_names_are_there():
    for name in re.findall(r"`((?:codi_lens|notebooks|experiments)/[\w/.]+)`", README):
        assert (ROOT / name).exists(), name
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).exists(), picture


def test_the_files_that_contributing_names_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    names = re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?)`", text)
    assert names
    for name in names:
        assert (ROOT / name).exists() or (ROOT / "codi_lens" / name).exists(), name


def test_the_targets_that_contributing_names_are_the_makefiles():
    named = set(
        re.findall(r"^make ([\w ]+?) *(?:#|$)", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    )
    (targets,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert {word for line in named for word in line.split()} == set(targets.split())
