"""Sweeps of a small model to make records of."""

import json
from dataclasses import replace

from codi_lens.patching.outcomes import sweep_pairs
from codi_lens.patching.sweep import make_settings, make_sweep
from tests.models.runs import PAIRS

EXPERIMENTS = {
    "position_patching": {
        "effect": "all",
        "controls": True,
        "layers": ["thought", 0, 2],
        "positions": ["bot", 1, 2, "eot"],
    },
    "layer_patching": {"controls": True, "direction": "noise"},
    "iterative_patching": {"layers": [0, 2]},
}


def measure(codi, experiment, **options):
    settings = make_settings(codi, **(EXPERIMENTS[experiment] | options))
    pairs = [*PAIRS, replace(PAIRS[0], pair_id=9, corrupted=replace(PAIRS[0].corrupted, answer=42))]
    outcomes = sweep_pairs(experiment, codi, pairs, settings, decode="all")
    return make_sweep(experiment, codi, settings, list(outcomes))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
