"""A small job, and programs that must refuse what they are given."""

import pytest

from codi_lens.cli import (
    position_patching,
)
from tests.models.runs import write_job


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    return write_job(tmp_path_factory.mktemp("job"))


@pytest.fixture
def refused(flags, tmp_path, capsys):
    """Runs a program that must refuse its flags; returns what it said."""

    def run(*more, program=position_patching, out=tmp_path / "out"):
        assert program.main([*flags, "--out", str(out), *map(str, more)]) == 2
        said = capsys.readouterr().err
        assert any(line.startswith("error: ") for line in said.splitlines())
        assert "Traceback" not in said
        if out == tmp_path / "out":
            assert not out.exists() or not list(out.iterdir())
        return said

    return run
