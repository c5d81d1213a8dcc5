"""The names of the package: there for completion and types, and imported when they are used."""

import ast
import subprocess
import sys
from pathlib import Path

import codi_lens

STUB = Path(codi_lens.__file__).with_suffix(".pyi")


def test_dir_lists_every_name_of_the_stub_and_each_is_there():
    stated = {alias.asname for node in ast.parse(STUB.read_text()).body for alias in node.names}
    assert set(dir(codi_lens)) == set(codi_lens.__all__) == stated
    assert {"HookedCodi", "CodiRun", "Site", "load_pairs", "patch_positions", "plots"} <= stated
    for name in stated:
        assert getattr(codi_lens, name).__name__.rpartition(".")[2] == name


def test_importing_the_package_loads_no_torch_and_no_name_before_it_is_used():
    code = """
import sys
import codi_lens
dir(codi_lens)
heavy = {"torch", "transformers", "transformer_lens", "plotly"}
assert not heavy & set(sys.modules)
from codi_lens import UserError
assert not heavy & set(sys.modules)
from codi_lens import Site
assert "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=STUB.parent.parent)
