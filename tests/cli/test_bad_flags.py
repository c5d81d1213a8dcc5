"""Flags that cannot be used: one message that names the flag and what it takes."""

import json
import shutil

import pytest

from codi_lens import UserError, patch_positions
from codi_lens.checkpoint.config import CONFIG_NAME
from codi_lens.cli import (
    compare,
    inspect_checkpoint,
    iterative_patching,
    necessity,
    position_patching,
)
from tests.models.runs import PAIRS


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--limit", 0], "--limit is 0; it must be 1 or more"),
        (["--limit", -3], "--limit is -3; it must be 1 or more"),
        (["--batch-rows", 0], "--batch-rows is 0; it must be 1 or more"),
        (["--seed", -1], "--seed is -1; it must be 0 or more"),
        (["--seed", 2**63], "--seed is 9223372036854775808; it must be"),
        (["--min-gap", "nan"], "--min-gap is nan; it must be 0 or more"),
        (["--min-gap", -1], "--min-gap is -1.0; it must be 0 or more"),
        (
            ["--num-latents", -2],
            "'num_latents' is -2; it must be a whole number, 0 or more",
        ),
        (["--num-latents", 0], "positions [0, 1]: give no numbers (there are none), or bot or eot"),
        (
            ["--layers", "0-3"],
            "layers [0, 1, 2, 3]: give different numbers from 0 to 2, or thought",
        ),
        (["--layers", "2-1"], "layers []: give different numbers from 0 to 2"),
        (["--positions", "3"], "positions [3]: give different numbers from 0 to 2, or bot or eot"),
        (["--model", "no/such/folder"], "no/such/folder"),
        (["--pairs", "missing.json"], "cannot read pairs from missing.json: No such file"),
        (["--device", "gpu"], "no device 'gpu' here; give 'auto', 'cpu', 'cuda' or 'mps'"),
        (["--device", "meta"], "no device 'meta' here"),
        (["--device", "cuda:99"], "no device 'cuda:99' here"),
        (["--alpha", "nan"], "'lora_alpha' is nan; it must be a positive number"),
        (["--alpha", "-1"], "'lora_alpha' is -1.0; it must be a positive number"),
        (["--revision", "main"], "revision 'main' is given, but"),
        (["--base", "no/such/folder"], "no/such/folder"),
    ],
)
def test_flags_that_cannot_be_used(refused, more, message):
    assert message in refused(*more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--dtype", "int8"], "invalid choice: 'int8'"),
        (["--mode", "frozen"], "invalid choice: 'frozen'"),
        (["--positions", "first"], "'first' is not a list such as bot,0-3,7"),
        (["--limit", "many"], "invalid int value: 'many'"),
        (["--lairs", "1"], "unrecognized arguments: --lairs 1"),
    ],
)
def test_flags_that_are_no_words_of_the_program(flags, more, message, capsys):
    with pytest.raises(SystemExit) as stop:
        position_patching.main([*flags, *more])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_other_programs_check_their_numbers_too(tmp_path, capsys):
    for more, message in ((["--batch", "0"], "--batch is 0"), (["--limit", "0"], "--limit is 0")):
        assert necessity.main([*more, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    assert compare.main([str(tmp_path), str(tmp_path / "other")]) == 2
    assert "holds no finished record" in capsys.readouterr().err


def test_unknown_sites_and_modes_in_a_notebook(tiny):
    for options, message in (
        ({"site": "resid_end"}, "no site 'resid_end'; known are resid_pre, resid_mid"),
        ({"answer_start": "now"}, "no answer_start 'now'"),
        ({"layers": [-1]}, r"layers \[-1\]"),
    ):
        with pytest.raises(UserError, match=message):
            patch_positions(tiny, PAIRS, **options)


def test_more_thoughts_than_trained_are_allowed_and_warned_of(flags, tmp_path, capsys):
    out = tmp_path / "out"
    more = ["--num-latents", "4", "--limit", "1", "--controls", "none", "--out", str(out)]
    assert position_patching.main([*flags, *more]) == 0
    said = capsys.readouterr().err
    assert "warning: --num-latents 4 is more than the 3 that the model was trained with" in said
    assert json.loads((out / "manifest.json").read_text())["settings"]["num_latents"] == 4


def test_what_no_file_says_is_asked_for_by_its_flags_which_then_do(refused, flags, tmp_path):
    """And the record knows of them, so that no other run is taken for one of the same model."""
    folder = shutil.copytree(flags[1], tmp_path / "model")
    (folder / CONFIG_NAME).unlink()
    shutil.copytree(flags[1], tmp_path / "base")
    said = refused("--model", folder)
    assert said.rstrip().endswith(
        "or pass --alpha …, --num-latents …, --remove-eos or --no-remove-eos, --answer-stem …"
    )
    assert inspect_checkpoint.main([str(folder)]) == 2
    unsaid = [
        "--alpha",
        "12",
        "--num-latents",
        "3",
        "--no-remove-eos",
        "--answer-stem",
        "The answer is: ",
    ]
    out = tmp_path / "run"
    more = ["--model", str(folder), "--limit", "1", *unsaid, "--out", str(out)]
    assert position_patching.main([*flags, *more]) == 0
    (folder / "config.json").unlink()
    assert "give --base … (a folder or a hub id)" in refused("--model", folder, *unsaid)
    more = [*more[:-2], "--base", str(tmp_path / "base"), "--activations", str(out)]
    again = tmp_path / "again"
    assert iterative_patching.main([*flags, *more, "--out", str(again)]) == 0
    model = json.loads((again / "manifest.json").read_text())["model"]
    assert (model["lora_alpha"], model["remove_eos"]) == (12.0, False)
    said = refused(*more, "--alpha", 2, program=iterative_patching)
    assert "lora_alpha (there 12.0, here 2.0)" in said


def test_a_program_advises_flags_where_the_library_advises_arguments(capsys):
    name = "unsloth/Llama-3.2-1B-Instruct"
    assert inspect_checkpoint.main([name]) == 2
    assert f'give it as --base "{name}"' in capsys.readouterr().err
