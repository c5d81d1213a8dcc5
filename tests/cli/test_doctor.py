"""What the doctor says of this machine, and of broken ones."""

import importlib.metadata
import re

import huggingface_hub
import pytest

from codi_lens.cli import doctor
from codi_lens.cli.main import main
from codi_lens.model import devices


def said(capsys, *checks, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", {name: doctor.CHECKS[name] for name in checks})
    code = main(["doctor"])
    return code, capsys.readouterr().out


def test_a_machine_that_passes_the_tests_is_healthy_and_the_report_is_one_screen(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "BROKEN" not in out
    assert "The answer is: 50" in out
    assert re.search(r"\btorch 2\.\d", out)
    assert len(out.splitlines()) <= 24
    assert max(map(len, out.splitlines())) <= 120


def test_a_version_out_of_range_and_a_package_that_is_not_there_are_broken(capsys, monkeypatch):
    requirements = ["torch>=99", "no-such-package>=1", 'numpy>=99; extra == "export"']
    monkeypatch.setattr(doctor, "requires", lambda _: requirements)
    code, out = said(capsys, "dependencies", "extras", monkeypatch=monkeypatch)
    assert code == 1
    torch = importlib.metadata.version("torch")
    assert f"torch {torch} is not >=99; no-such-package is missing" in out
    assert re.search(r"-> pip install 'codi-lens\[export\]'", out)


def test_a_check_that_fails_is_broken_and_the_others_are_made(capsys, monkeypatch):
    def none(*_):
        raise OSError("libcudart is not there")

    monkeypatch.setattr(devices, "pick_device", none)
    code, out = said(capsys, "device", "package", monkeypatch=monkeypatch)
    assert code == 1
    assert "BROKEN device        OSError: libcudart is not there" in out
    assert "ok     package" in out


@pytest.mark.parametrize(("token", "expected"), [("hf_secret", "a token"), (None, "no token")])
def test_the_token_is_told_of_and_never_shown(token, expected, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    code, out = said(capsys, "hub", monkeypatch=monkeypatch)
    assert code == 0
    assert expected in out
    assert "hf_secret" not in out
