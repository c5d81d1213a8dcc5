"""Every experiment leaves a record that is read back, drawn, tabulated, reported, and gone on with."""

import pytest
import torch

from codi_lens import records
from codi_lens.cli.table import table
from codi_lens.patching.experiments import EXPERIMENTS
from codi_lens.patching.sweep import make_settings
from codi_lens.plots import gallery
from codi_lens.records.read import load, read_manifest
from codi_lens.records.stopping import Interrupted
from codi_lens.report.build import report
from codi_lens.tracking import summary_of, table_of
from tests.models.runs import PAIRS

OPTIONS = {
    "position_patching": {"site": "z", "intervention": "mean", "controls": True},
    "layer_patching": {"layers": [0, "1.kv0", "0.n3"], "effect": "all"},
    "iterative_patching": {"site": "kv", "starts": ("bot", 0, 2), "positions": ("bot", 0, 2)},
    "routes": {"window": 1, "values": "patched", "controls": True},
    "path_patching": {"positions": (0, 1), "effect": "direct"},
    "knockout": {"window": 2},
    "influence": {"intervention": "zero", "controls": True},
}


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_a_record_says_what_the_sweep_said(codi, name, tmp_path):
    settings = make_settings(codi, name, **OPTIONS[name])

    def stop_after_two(outcome, done):
        if done == 2:
            raise KeyboardInterrupt

    asked = {"settings": settings, "progress": False, "batch_rows": 60}
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        records.run(codi, PAIRS, name, tmp_path, on_pair=stop_after_two, **asked)
    sweep = records.run(codi, PAIRS, name, tmp_path, **asked)
    again = load(tmp_path)
    assert (again.experiment, again.settings, again.axes) == (
        sweep.experiment,
        settings,
        sweep.axes,
    )
    assert torch.equal(again.zeros, sweep.zeros)
    for metric, values in sweep.metrics.items():
        torch.testing.assert_close(again.metrics[metric], values, atol=0, rtol=0, equal_nan=True)
    for before, after in zip(sweep.outcomes, again.outcomes, strict=True):
        assert torch.equal(before.activations, after.activations)
    drawn = gallery(again)
    assert drawn
    assert any(label in table(again) for label in map(str, again.axes["row"]))
    assert len(table_of(again)[1]) == torch.tensor([len(v) for v in again.axes.values()]).prod()
    assert summary_of(again)["pairs"] == 4
    page = report({"run": again}, {"run": read_manifest(tmp_path)})
    assert again.experiment.heading in page
