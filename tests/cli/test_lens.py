"""The program lens, as its users run it."""

import json

from codi_lens.cli import lens
from tests.models.tiny import write_tiny


def test_a_trained_lens_is_saved_and_read_with_again(tmp_path, capsys):
    flags = ["--kind", "tuned", "--limit", "4"]
    first, second = tmp_path / "first", tmp_path / "second"
    trained = [*flags, "--data", "toy", "--learning-steps", "5", "--out", str(first)]
    assert lens.main(trained) == 0
    shown = capsys.readouterr().out
    assert "tuned lens trained in" in shown
    assert "28 held-out questions" in shown  # a fourth of 120 but for the map's own 8
    assert lens.main([*flags, "--lens", str(first / "lens"), "--out", str(second)]) == 0
    assert capsys.readouterr().out.split("\n\n")[:4] == shown.split("\n\n")[1:5]
    one, other = (json.loads((out / "lens.json").read_text()) for out in (first, second))
    for key in ("kind", "steps", "results", "held_out", "model_digest"):
        assert one[key] == other[key]
    assert {path.name for path in second.iterdir()} == {"lens.json", "lens.html"}
    best = one["results"]["v1"]["best"]
    column = one["steps"].index(best["step"])
    probability = one["results"]["v1"]["probability"][best["layer"]][column]
    assert f"{probability:.3f}" in shown


def test_a_lens_that_cannot_be_had_is_refused_before_anything_is_written(tmp_path, capsys):
    model, out = write_tiny(tmp_path / "model"), tmp_path / "out"
    for flags, message in (
        (["--lens", str(tmp_path)], "--lens is for a tuned lens; add --kind tuned"),
        (["--kind", "tuned", "--lens", str(tmp_path)], "holds no tuned_lens.safetensors"),
        (["--kind", "tuned", "--model", str(model), "--pairs", "toy"], "give a data set as --data"),
        (["--kind", "tuned", "--data", "toy"], "on the pairs' questions alone; give other --data"),
    ):
        assert lens.main([*flags, "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()
