"""`python -m experiments.load_benchmark`, at a shape that takes no time."""

import json

import pytest

from experiments import load_benchmark

SMALL = load_benchmark.SHAPES["small"]


@pytest.mark.parametrize("file_format", load_benchmark.FORMATS)
def test_fabricates_and_measures(tmp_path, capsys, file_format):
    load_benchmark.fabricate(tmp_path, SMALL, file_format)
    arguments = ["--measure", str(tmp_path), "--dtype", "float32"]
    assert load_benchmark.main(arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    layer = 64 * (64 + 32 + 32 + 64 + 3 * 128) + 2 * 64  # q, k, v, o, the mlp's three, two norms
    projection = 2 * (64 * 64 + 64) + 2 * 64
    assert figures["weights"] == 4 * (2003 * 64 + 2 * layer + 64 + projection)
    assert figures["own_peak"] >= figures["own_before"] > 0
    assert figures["resident_peak"] > figures["own_peak"]
    text = load_benchmark.table(figures)
    assert "MiB in float32 on cpu" in text
    assert "× weights" in text


def test_a_folder_in_use_is_refused(tmp_path, capsys):
    (tmp_path / "something").touch()
    assert load_benchmark.main(["--shape", "small", "--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
