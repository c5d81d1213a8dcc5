"""Input that cannot be used: one message that names it, exit code 2, nothing written, no traceback."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from codi_lens import UserError, load_pairs
from codi_lens.checkpoint.config import CONFIG_NAME
from codi_lens.cli import (
    layer_patching,
    position_patching,
)
from codi_lens.cli.program import Program
from codi_lens.data.pairs import Pair, Variant, write_pairs
from codi_lens.model.devices import pick_device
from codi_lens.patching.checks import NotFinite
from codi_lens.records.journal_lines import encode
from codi_lens.records.manifest import SCHEMA_VERSION
from tests.models.runs import PAIRS
from tests.models.tiny import tiny_config, write_tiny


def test_a_device_without_the_dtype(monkeypatch):
    """As Apple's GPUs are without float64: the first calculation in it fails."""
    ones = torch.ones

    def refusing(*args, dtype=torch.float32, **options):
        if dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return ones(*args, dtype=dtype, **options)

    monkeypatch.setattr(torch, "ones", refusing)
    with pytest.raises(UserError, match=r"device 'cpu' cannot calculate in torch\.float64"):
        pick_device("cpu", torch.float64)
    assert pick_device("cpu", torch.float16) == torch.device("cpu")


@pytest.mark.parametrize("too_long", ["clean", "corrupted"])
def test_a_pair_that_is_longer_than_the_context_is_named_before_anything_runs(
    refused, tmp_path, too_long
):
    sides = {"clean": "1 plus 2?", "corrupted": "1 plus 3?"} | {too_long: "1 plus " * 73 + "2?"}
    long = Pair(12, Variant(sides["clean"], 3), Variant(sides["corrupted"], 4))
    write_pairs(tmp_path / "pairs.json", [*PAIRS, long])
    said = refused("--pairs", tmp_path / "pairs.json")
    assert (
        f"pair 12, {too_long}: the sequence has 259 positions; the model's context has 256" in said
    )


def test_a_question_that_the_tokenizer_does_not_know_is_named(refused, tmp_path):
    pair = Pair(5, Variant("1 plus 2?", 3), Variant("The moon is 2?", 4))
    write_pairs(tmp_path / "pairs.json", [*PAIRS, pair])
    said = refused("--pairs", tmp_path / "pairs.json")
    assert "pair 5, corrupted: the tokenizer does not know every word" in said


def test_a_tokenizer_without_the_special_tokens(refused, tmp_path):
    config = tiny_config(bot_token="<think>", eot_token="</think>")
    folder = write_tiny(tmp_path / "model", config=config)
    path = folder / CONFIG_NAME
    path.write_text(path.read_text().replace("<think>", "<start>"))
    said = refused("--model", folder)
    assert "the tokenizer has no token '<start>' within the model's" in said


def test_a_model_without_the_projection_that_its_settings_ask_for(refused, tmp_path, flags):
    folder = shutil.copytree(flags[1], tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("prj.")}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    said = refused("--model", folder)
    assert "key 'prj.1.weight' is missing" in said


def test_pairs_that_are_no_pairs(refused, tmp_path):
    path = tmp_path / "pairs.json"
    for content, message in (
        ("", "is empty"),
        ("{", "is not readable JSON"),
        ("[]", "holds no pairs"),
        ('[{"pair_id": 1}]', "clean: missing"),
    ):
        path.write_text(content)
        assert message in refused("--pairs", path)
    write_pairs(path, [Pair(0, Variant("1 plus 2?", 3), Variant("2 plus 1?", 3))])
    assert "has no pair whose answers differ" in refused("--pairs", path)


def test_folders_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    said = refused(out=tmp_path / "file" / "out")
    assert f"cannot make the folder {tmp_path / 'file' / 'out'}: Not a directory" in said
    assert "Not a directory" in refused(out=tmp_path / "file")
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine.txt").write_text("mine")
    assert f"the folder {used} is not empty; give a fresh one as --out" in refused(out=used)
    assert [path.name for path in used.iterdir()] == ["mine.txt"]
    header = {"schema_version": SCHEMA_VERSION, "experiment": "layer_patching"}
    for content, goes_on in (
        (b"", False),
        (encode(header), False),  # not begun by a program
        (encode(header | {"arguments": []}), True),
    ):
        (used / "journal.jsonl").write_bytes(content)
        way = f"go on with the run in it:\n  python -m experiments.layer_patching --resume {used}"
        assert (way in refused(out=used)) == goes_on


def test_a_folder_without_the_right_to_write(refused, tmp_path, monkeypatch):
    def denied(self, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", denied)  # a test that runs as root may write everywhere
    assert "Permission denied" in refused(out=tmp_path / "locked" / "out")


def test_debug_shows_where_an_error_came_from(flags, tmp_path):
    with pytest.raises(UserError, match="--limit is 0"):
        position_patching.main([*flags, "--limit", "0", "--debug"])


def test_files_that_fail_are_named_without_a_traceback(capsys):
    for error, message in (
        (PermissionError(13, "Permission denied", "some/file"), "some/file: Permission denied"),
        (OSError("cannot be read"), "cannot be read"),
        (KeyError("a"), "KeyError: 'a' (--debug shows where it comes from)"),
    ):

        def fail(_, error=error):
            raise error

        program = Program("necessity", "Any.", lambda _: None, fail)
        assert program([]) == 2
        assert capsys.readouterr().err == f"error: {message}\n"
        with pytest.raises(type(error)):
            program(["--debug"])


def test_weights_that_are_not_finite(refused, flags, tmp_path):
    folder = shutil.copytree(flags[1], tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "layers.1.input_layernorm" in name)
    tensors[name][0] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    said = refused("--model", folder)
    assert name in said
    assert "holds 1 NaN or infinite values" in said


@pytest.mark.parametrize("program", [position_patching, layer_patching])
def test_numbers_that_overflow_in_half_precision(refused, tmp_path, program):
    """Weights that float16 can hold, whose products it cannot: an error, and not a map of nothing."""
    folder = write_tiny(tmp_path / "loud", spread=15.0)
    more = ["--model", folder, "--dtype", "float16"]
    said = refused(*more, program=program, out=tmp_path / "run")
    assert "pair 0: kl_divergence is nan in the base run: the model's numbers overflow" in said
    assert "float32 has more room than float16" in said
    assert "--resume" not in said, "it would fail again"
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_patched_run_that_is_not_finite_is_named_with_layer_and_position(tiny, monkeypatch):
    """A source activation too large for the answer: the base run is sound, the patched one is not."""
    from codi_lens.patching.outcomes import sweep_pairs
    from codi_lens.patching.replacements import saved_activations
    from codi_lens.patching.sweep import make_settings

    settings = make_settings(tiny, layers=[0, 1], positions=[1, 2])
    saved = torch.zeros(2, 2, 32, dtype=torch.float64)
    saved[1, 1, 3] = torch.inf
    with pytest.raises(
        NotFinite,
        match=r"pair 7: .* is nan in the patched run at effect total, row 1, column 2",
    ):
        list(
            sweep_pairs(
                "position_patching",
                tiny,
                PAIRS[1:2],
                settings,
                replacement=saved_activations(settings, [saved]),
            )
        )


def test_the_pairs_of_the_job_are_sound(flags):
    assert load_pairs(flags[3]) == PAIRS
