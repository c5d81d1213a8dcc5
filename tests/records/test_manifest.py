"""What a manifest knows, and how it differs from another."""

import torch

from codi_lens.records.manifest import differences, tensors_digest
from codi_lens.records.read import (
    read_manifest,
)


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
