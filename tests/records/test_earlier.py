"""Records of the first schema are read, reported and compared as if they were of today's."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from codi_lens import HookedCodi, load_pairs, patch_iteratively, patch_layers, patch_positions
from codi_lens.choices import EARLIER_NAMES
from codi_lens.records.read import load, read_manifest
from codi_lens.report.build import report

RECORDS = Path(__file__).parents[1] / "files" / "records_v1"
AGAIN = {
    "position": (
        patch_positions,
        {
            "effect": "all",
            "controls": True,
            "positions": ["bot", 1, 5],
            "layers": ["thought", 0, 2],
        },
    ),
    "layer": (patch_layers, {"effect": "direct", "controls": True, "direction": "noise"}),
    "iterative": (patch_iteratively, {"positions": [1, 2, 3], "layers": [0, 2]}),
}


@pytest.fixture(scope="module")
def toy():
    return HookedCodi.from_pretrained("toy")


@pytest.mark.parametrize("name", AGAIN)
def test_it_reads_as_what_the_same_run_gives_today(name, toy):
    run, options = AGAIN[name]
    back, now = load(RECORDS / name), run(toy, load_pairs("toy")[:2], **options)
    assert back.settings == now.settings
    assert back.axes == now.axes
    stored = load_file(RECORDS / name / "metrics.safetensors")
    later = {"base_given"}  # measured since
    assert now.metrics.keys() - later == back.metrics.keys()
    for metric in back.metrics:
        assert torch.equal(
            back.values(metric).flatten().nan_to_num(), stored[metric].flatten().nan_to_num()
        )
        torch.testing.assert_close(
            back.values(metric), now.values(metric), atol=1e-4, rtol=1e-4, equal_nan=True
        )
    assert [o.donor for o in back.outcomes] == [o.donor for o in now.outcomes]
    assert torch.equal(back.zeros, now.zeros)


def test_it_is_reported_beside_others():
    runs = {name: load(RECORDS / name) for name in AGAIN}
    page = report(runs, {name: read_manifest(RECORDS / name) for name in AGAIN})
    assert "total effect: later thoughts regenerated" in page
    assert not any(
        f'"{name}"' in json.dumps(list(runs["position"].axes["effect"])) for name in EARLIER_NAMES
    )
