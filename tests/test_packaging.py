"""The versions that the package admits, and those that it was last tested with."""

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIRED = {
    canonicalize_name(requirement.name): requirement
    for requirement in map(Requirement, [*PROJECT["dependencies"], *EXTRAS["dev"]])
}


def pins(text):
    lines = [line.split("==") for line in text.splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in lines}


def test_what_was_last_tested_is_within_the_ranges():
    tested = pins((ROOT / "constraints.txt").read_text())
    assert set(REQUIRED) <= set(tested)
    for name, requirement in REQUIRED.items():
        assert tested[name] in requirement.specifier, name


def test_the_command_is_there():
    module, _, name = PROJECT["scripts"]["codi-lens"].partition(":")
    assert callable(getattr(import_module(module), name))


def test_the_lowest_versions_are_the_floors_of_the_ranges():
    script = [sys.executable, ROOT / ".ci" / "lowest"]
    lowest = pins(subprocess.run(script, capture_output=True, text=True, check=True).stdout)
    assert set(lowest) == set(REQUIRED) - {"torch"}
    for name, floor in lowest.items():
        requirement = REQUIRED[name].specifier
        assert floor in requirement
        assert f">={floor}" in str(requirement)
        assert any(part.operator == "<" for part in requirement), f"{name} has no upper end"
