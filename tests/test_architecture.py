"""Which module may import what: the rooms of the library, kept apart."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codi_lens.choices import CONTROLS, DIRECTIONS, EARLIER_NAMES, EFFECTS
from codi_lens.patching.experiments import EXPERIMENTS
from codi_lens.patching.experiments.iterative import STRATEGIES

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "codi_lens").rglob("*.py"))
PROGRAMS = sorted((ROOT / "experiments").glob("*.py"))
ALLOWED = {
    "transformer_lens": {"model", "checkpoint"},
    "plotly": {"plots", "cli"},
    "wandb": {"tracking"},
    "peft": {"checkpoint"},
    "datasets": {"data"},
    "experiments": set(),
}
FLOORS = [
    {"errors", "files", "choices", "memory", "threads", "shipped"},
    {"data"},
    {"checkpoint"},
    {"model"},
    {"patching"},
    {"analysis"},
    {"records"},
    {"plots", "tracking"},
    {"report"},
    {"organisms"},
    {"cli"},
]
"""Each may import from those above it; the first from each other."""


def imported(path):
    """Names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def room(path):
    """The package, or the module at the top, that a file belongs to."""
    return path.relative_to(ROOT / "codi_lens").parts[0].removesuffix(".py")


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_is_named_only_in_its_rooms(package):
    users = {
        room(path)
        for path in MODULES
        if any(name.split(".")[0] == package for name in imported(path))
    }
    assert users - {"organisms"} <= ALLOWED[package]
    assert users or not ALLOWED[package]


def test_imports_go_to_the_floors_above():
    floor = {name: i for i, rooms in enumerate(FLOORS) for name in rooms}
    rooms = {path: room(path) for path in MODULES if room(path) != "__init__"}
    assert set(rooms.values()) == set(floor), "every room has its floor above"
    for path, own in rooms.items():
        for name in imported(path):
            there = name.split(".")[1] if name.startswith("codi_lens.") else own
            above = floor[there] < floor[own] or there == own or floor[there] == 0
            assert above, f"{path.relative_to(ROOT)} imports {name}"


def test_no_modules_import_each_other_in_a_circle():
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in MODULES
    }
    names.pop("codi_lens")  # it imports lazily
    graph = {name: {i for i in imported(path) if i in names} for name, path in names.items()}
    while leaves := {name for name, used in graph.items() if not used & set(graph)}:
        graph = {name: used for name, used in graph.items() if name not in leaves}
    assert not graph, f"circular: {sorted(graph)}"


def python(code, environment=None):
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


def test_importing_the_library_loads_no_drawing_and_changes_no_setting():
    code = """
import logging, sys, torch, warnings
before = (torch.get_default_dtype(), torch.is_grad_enabled(), logging.getLogger().level)
import codi_lens
assert before == (torch.get_default_dtype(), torch.is_grad_enabled(), logging.getLogger().level)
assert not {"plotly", "wandb"} & set(sys.modules), sorted({"plotly", "wandb"} & set(sys.modules))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_every_module_works_without_what_only_unix_has():
    """As on Windows; what this package depends on looks after itself, and is imported before."""
    ours = [path.relative_to(ROOT).with_suffix("") for path in [*MODULES, *PROGRAMS]]
    code = f"""
import importlib, sys
import peft, plotly.graph_objects, torch, transformer_lens, transformers
sys.modules["fcntl"] = sys.modules["resource"] = None
for module in {[".".join(path.parts).removesuffix(".__init__") for path in ours]}:
    importlib.import_module(module)
from codi_lens.memory import peak_memory
assert peak_memory() > 2**20
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "program",
    [path.stem for path in PROGRAMS if "import main" in path.read_text()],
)
def test_help_is_quick_to_come(program):
    code = f"""
import sys
from experiments.{program} import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
heavy = {{"plotly", "wandb", "peft", "torch"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = python(code, environment={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert f"python -m experiments.{program}" in done.stdout


def test_no_file_that_is_read_can_run_code():
    """No pickle, no code from the hub, no eval: `torch.load` reads plain tensors only."""
    for path in [*MODULES, *PROGRAMS]:
        names = {name.split(".")[0] for name in imported(path)}
        assert not names & {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert called not in ("eval", "exec", "yaml.load"), path
                assert called != "torch.load" or options.get("weights_only") == "True", path
                assert options.get("trust_remote_code", "False") == "False", path


def test_no_module_is_longer_than_a_reader_can_hold():
    lengths = {path: len(path.read_text().splitlines()) for path in [*MODULES, *PROGRAMS]}
    assert max(lengths.values()) <= 300, lengths
    assert sorted(lengths.values())[len(lengths) // 2] <= 150


def test_no_function_is_longer_than_a_screen():
    long = []
    for path in [*MODULES, *PROGRAMS]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                first = (
                    node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                )
                if node.end_lineno - first.lineno + 1 > 45:
                    long.append(f"{path.name}: {node.name}")
    assert not long


def test_no_code_asks_which_experiment_effect_or_control_it_has():
    """Registries and the records of earlier versions know names; everything else asks objects."""
    earlier = set(EARLIER_NAMES) - set(DIRECTIONS)  # "noise" is a direction as well
    names = {*EXPERIMENTS, *EFFECTS, *CONTROLS, *earlier, *STRATEGIES}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                texts = {
                    part.value
                    for side in (node.left, *node.comparators)
                    for part in ast.walk(side)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                }
                assert not texts & names, f"{path.name}, line {node.lineno}: {ast.unparse(node)}"
