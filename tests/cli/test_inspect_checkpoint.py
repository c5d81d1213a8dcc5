"""`python -m experiments.inspect_checkpoint`: the report, the comparison, and their exit codes."""

import dataclasses
import hashlib
import json
import shutil

import pytest
import torch

from codi_lens import HookedCodi
from codi_lens.cli import inspect_checkpoint
from codi_lens.model.pretrained import load_pretrained
from tests.models.tiny import tiny_config, write_tiny

QUESTION = "one plus two?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = tiny_config(drop_prefixes=("decoder.",))
    extra = {"decoder.weight": torch.ones(2)}
    path = tmp_path_factory.mktemp("tiny")
    return write_tiny(path, spread=0.15, config=config, extra=extra)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_prints_the_report_and_agrees(folder, capsys, dtype):
    code = inspect_checkpoint.main([str(folder), "--dtype", dtype, "--question", QUESTION])
    out = capsys.readouterr().out
    assert code == 0
    assert "keys dropped     under decoder. 1" in out
    assert "adapters merged  q_proj 3, k_proj 3" in out
    assert f"in {dtype} on cpu" in out
    assert "largest difference, thoughts" in out
    assert "they agree: " in out
    assert f"allowed for rounding in {dtype}" in out


def test_settings_reach_the_loader(folder, capsys):
    arguments = "--alpha 8 --num-latents 2 --no-remove-eos --answer-stem The --device auto"
    code = inspect_checkpoint.main([str(folder), *arguments.split(), "--question", QUESTION])
    out = capsys.readouterr().out
    assert code == 0
    assert "LoRA             rank 4, alpha 8, scale 2" in out
    assert "thoughts         2" in out
    assert "sequence         [BOS][question][eos][bot][thoughts][eot][eos][answer]" in out
    assert "answer stem      'The'" in out


def test_differences_are_those_of_two_models(folder, tmp_path):
    """The comparison can fail: against the weights of another model it does."""
    codi = HookedCodi.from_pretrained(folder)
    same = load_pretrained(folder)
    assert inspect_checkpoint.compare(codi, same, QUESTION).logits.relative < 1e-5
    other = load_pretrained(write_tiny(tmp_path / "other", seed=1, spread=0.15))
    assert inspect_checkpoint.compare(codi, other, QUESTION).logits.relative > 0.1
    unprojected = dataclasses.replace(same, projection=None)
    assert inspect_checkpoint.compare(codi, unprojected, QUESTION).thoughts.relative > 0.1


def test_exit_code_1_for_a_difference_beyond_rounding(folder, capsys, monkeypatch):
    monkeypatch.setitem(inspect_checkpoint.TOLERANCE, "float32", 0.0)
    assert inspect_checkpoint.main([str(folder), "--question", QUESTION]) == 1
    assert "they DISAGREE" in capsys.readouterr().out


def test_exit_code_2_and_one_message_for_what_cannot_be_used(folder, tmp_path, capsys):
    for arguments in ([str(tmp_path / "nothing")], [str(folder), "--question", "unknown words"]):
        assert inspect_checkpoint.main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1


def test_default_question_needs_a_tokenizer_that_knows_its_words(folder, capsys):
    assert inspect_checkpoint.main([str(folder)]) == 2
    assert "does not know every word" in capsys.readouterr().err


def test_each_weight_file_has_the_sum_that_sha256sum_prints(tmp_path, capsys):
    folder = write_tiny(tmp_path, spread=0.15, max_shard_size="40KB")
    assert inspect_checkpoint.main([str(folder), "--question", QUESTION]) == 0
    shown = dict(
        reversed(line.split()[1:])
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("sha256")
    )
    shards = sorted(folder.glob("model-*.safetensors"))
    digests = [hashlib.sha256(shard.read_bytes()) for shard in shards]
    assert shown == {s.name: d.hexdigest() for s, d in zip(shards, digests, strict=True)}
    whole = hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()
    assert HookedCodi.from_pretrained(folder).digest == whole


@pytest.mark.parametrize("context", [1, 8, 25, 26])
def test_a_context_too_small_for_the_comparison_is_one_error(folder, tmp_path, capsys, context):
    """4 of the question, bos, bot, 3 thoughts, eot, 16 of the answer."""
    copied = shutil.copytree(folder, tmp_path / "small")
    path = copied / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": context}))
    code = inspect_checkpoint.main([str(copied), "--question", QUESTION])
    err = capsys.readouterr().err
    assert code == (0 if context == 26 else 2)
    assert err == (
        "" if context == 26
        else f"error: the sequence has 26 positions; the model's context has {context}\n"
    )  # fmt: skip
