"""The programs about organisms, as their users run them."""

import json
import shutil
from argparse import Namespace
from dataclasses import replace
from functools import partial

import pytest
from safetensors.torch import load_file, save_file

from codi_lens import UserError, load_pairs
from codi_lens.cli import asking, certify, probes, scorecard, steering, train_organism
from codi_lens.organisms.planted import export
from codi_lens.organisms.planted import recipe as recipes
from codi_lens.organisms.planted.certify import certify as certified
from codi_lens.organisms.scorecard import load_organism, score
from codi_lens.shipped import ORGANISMS


def test_a_certificate_is_measured_and_can_fail(tmp_path, capsys):
    assert certify.main(["dense", "--problems", "40"]) == 0
    assert "thought 3 → v4  1.000" in capsys.readouterr().out
    spoiled = shutil.copytree(ORGANISMS["dense"], tmp_path / "spoiled")
    tensors = load_file(spoiled / "model.safetensors")
    tensors["prj.1.weight"] = -tensors["prj.1.weight"]
    save_file(tensors, spoiled / "model.safetensors", metadata={"format": "pt"})
    assert certify.main([str(spoiled), "--problems", "40"]) == 1
    assert "misses 0.99" in capsys.readouterr().out


@pytest.mark.parametrize("program", [certify, scorecard])
def test_an_unknown_organism_is_refused(program, capsys):
    flags = ["--organisms"] if program is scorecard else []
    assert program.main([*flags, "nothing"]) == 2
    assert f"no organism 'nothing'; known are {', '.join(ORGANISMS)}" in capsys.readouterr().err


def test_a_folder_without_truth_is_no_organism(tmp_path, capsys):
    assert certify.main([str(tmp_path)]) == 2
    assert "an organism's folder has one beside its weights" in capsys.readouterr().err
    (tmp_path / "truth.json").write_text('{"mechanism": "dense"}')
    assert certify.main([str(tmp_path)]) == 2
    assert "is not the truth about an organism: KeyError('text')" in capsys.readouterr().err


def test_the_scorecard_writes_what_it_prints(tmp_path, capsys):
    out = tmp_path / "card"
    methods = "logit lens,magic"
    assert (
        scorecard.main(["--organisms", "dense", "--methods", "logit lens", "--out", str(out)]) == 0
    )
    printed = capsys.readouterr().out
    (entry,) = json.loads((out / "scorecard.json").read_text())
    found = score("logit lens", load_organism("dense"))
    assert entry["cells"] == found.cells
    assert f"logit lens    {found.auroc:.2f}" in printed
    assert "<title>" in (out / "scorecard.html").read_text()
    assert scorecard.main(["--methods", methods, "--out", str(tmp_path / "other")]) == 2
    assert "no method 'magic'" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_training_that_falls_short_says_so(tmp_path, capsys, monkeypatch):
    small = {"batch": 4, "pool": 20, "steps": 2, "threshold": 0}
    monkeypatch.setattr(
        recipes, "recipe_of", lambda name, seed: replace(recipes.Recipe(name, seed), **small)
    )
    monkeypatch.setattr(export, "certify", partial(certified, problems=40))
    out = tmp_path / "made"
    assert train_organism.main(["decoy", "--out", str(out)]) == 0
    assert train_organism.main(["dense", "--seed", "3", "--out", str(tmp_path / "dense")]) == 2
    shown = capsys.readouterr()
    assert "misses 0.99" in shown.out
    assert "the model answers too few problems right; train it longer" in shown.err
    assert (tmp_path / "dense/README.md").exists()
    assert train_organism.main(["nothing"]) == 2
    assert "no mechanism 'nothing'" in capsys.readouterr().err
    assert train_organism.main(["dense", "--resume", "--out", str(out)]) == 2
    assert "holds no training to go on with" in capsys.readouterr().err


def test_probes_are_written_as_they_are_printed(tmp_path, capsys):
    out = tmp_path / "probes"
    flags = ["--model", "organism:decoy", "--layers", "thought", "--positions", "4,5"]
    assert probes.main([*flags, "--limit", "12", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    record = json.loads((out / "probes.json").read_text())
    assert record["n"] == len(record["questions"]) == 96
    maps = record["maps"]
    for column, at in enumerate((4, 5)):
        right = [q["predicted"][0][column] == q["label"] for q in record["questions"]]
        assert maps["score"][0][column] == pytest.approx(sum(right) / 96)
        values = [f"{maps[name][0][column]:.2f}" for name in ("score", "control", "selectivity")]
        assert " ".join(["thought", str(at), *values]) in " ".join(printed.split())
    assert maps["recovery_subspace"][0][0] > 0.7 > 0.1 > abs(maps["recovery_subspace"][0][1])
    weights = load_file(out / "probes.safetensors")
    assert weights["thought/4"].shape == (10, 64)
    assert "Where can the answer be read" in (out / "probes.html").read_text()
    assert probes.main([*flags, "--label", "v9", "--out", str(tmp_path / "other")]) == 2
    assert "so no v9" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_steering_is_written_as_it_is_printed(tmp_path, capsys):
    out = tmp_path / "steering"
    flags = ["--model", "organism:dense", "--place", "thought", "--label", "v2"]
    assert steering.main([*flags, "--step", "1", "--strengths", "1", "--out", str(out)]) == 0
    line = capsys.readouterr().out.split("\n")[4].split()
    record = json.loads((out / "steering.json").read_text())
    expected = [
        sum(pair[who][name][0] for pair in record["pairs"]) / len(record["pairs"])
        for who in ("steered", "random")
        for name in ("right", "flipped", "logit_diff")
    ]
    assert line == ["1", *(f"{value:.2f}" for value in expected)]
    assert steering.main([*flags, "--step", "1,2", "--out", str(tmp_path / "other")]) == 2
    assert "give one of each" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_model_that_ships_is_asked_its_own_unless_pairs_are_named():
    given = {"model": "organism:decoy", "pairs": None, "limit": 3, "seed": 0}
    own = asking.questions(Namespace(**given))
    assert len(own) == 24  # held-out problems
    pairs = load_organism("decoy").pairs
    assert not {one.question for one in own} & {pair.clean.question for pair in pairs[:3]}
    assert asking.chosen_pairs(Namespace(**given)) == list(pairs[:3])
    named = Namespace(**given | {"pairs": "toy"})
    assert asking.questions(named) == load_pairs("toy")[:3]
    with pytest.raises(UserError, match="which pairs is some/model to be asked"):
        asking.questions(Namespace(**given | {"model": "some/model"}))
    with pytest.raises(UserError, match="no model 'organism:decoi'"):
        asking.questions(Namespace(**given | {"model": "organism:decoi"}))
