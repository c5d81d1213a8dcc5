"""What a manifest knows, and how it differs from another."""

import json
import platform
import re
import shutil
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import torch

from codi_lens.records.manifest import differences, tensors_digest
from codi_lens.records.origin import describe_code
from codi_lens.records.read import load, read_manifest


def test_the_manifest_knows_what_it_is_of(recorded, codi):
    sweep, folder = recorded
    manifest = read_manifest(folder)
    assert manifest["complete"] is True
    assert manifest["config"] == {"pairs": "mine"}
    assert manifest["model"]["digest"] == codi.digest
    assert manifest["pairs"]["n"] == manifest["pairs"]["n_planned"] == 5
    assert manifest["pairs"]["n_per_group"]["same_answer"] == 1
    assert manifest["peak_memory_bytes"] > 2**20
    assert manifest["settings"]["layers"] == list(sweep.settings.layers)


def test_differences_are_named_down_to_the_field():
    there = {"a": 1, "m": {"x": 1, "y": 2}, "gone": 0}
    here = {"a": 1, "m": {"x": 1, "y": 3}}
    assert list(differences(there, here)) == ["gone (there 0, here None)", "m.y (there 2, here 3)"]


def test_the_digest_of_tensors_sees_every_bit():
    values = torch.arange(4, dtype=torch.bfloat16)
    assert tensors_digest([values]) == tensors_digest([values.clone()])
    assert tensors_digest([values]) != tensors_digest([values + torch.tensor([0, 0, 0, 1.0])])


def test_the_manifest_knows_the_code_and_the_machine_and_nothing_private(recorded):
    origin = read_manifest(recorded[1])["origin"]
    assert set(origin) == {"code", "time", "host"}
    assert datetime.fromisoformat(origin["time"]).utcoffset() == timedelta(0)
    assert set(origin["host"]) == {"platform", "python", "cpus", "device"}
    private = (platform.node(), str(Path.home()), str(Path.cwd()), str(recorded[1]))
    assert not [word for word in private if word in json.dumps(origin)]


def test_the_code_is_a_commit_only_where_the_package_is_part_of_the_repository(tmp_path):
    def git(*words):
        mail = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", tmp_path, *mail, *words], check=True, capture_output=True)

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    assert describe_code(package) is None
    git("init")
    assert describe_code(package) is None, "as in an environment inside somebody's project"
    git("add", ".")
    git("commit", "-m", "all")
    code = describe_code(package)
    assert re.fullmatch("[0-9a-f]{40}", code["commit"])
    assert code["dirty"] is False
    (tmp_path / "notes.txt").touch()
    assert describe_code(package) == code
    (package / "new.py").touch()
    assert describe_code(package) == code | {"dirty": True}


def test_a_manifest_without_an_origin_is_read(recorded, tmp_path):
    folder = shutil.copytree(recorded[1], tmp_path / "earlier")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["origin"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert len(load(folder).pairs) == 5


def test_every_field_is_in_the_documentation(recorded):
    page = (Path(__file__).parents[2] / "docs" / "records.md").read_text()
    fields = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert set(fields) == set(read_manifest(recorded[1]))
