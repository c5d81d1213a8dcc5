"""What goes in beside the source run's own activations."""

import torch

from codi_lens.patching.outcomes import sweep_pairs
from codi_lens.patching.replacements import saved_activations
from codi_lens.patching.sweep import make_settings
from tests.patching.test_experiments import PAIRS


def test_saved_activations_stand_for_the_source_run(tiny):
    settings = make_settings(tiny)
    own = list(sweep_pairs("position_patching", tiny, PAIRS, settings))
    saved = [outcome.activations for outcome in own]
    again = list(
        sweep_pairs(
            "position_patching",
            tiny,
            PAIRS,
            settings,
            replacement=saved_activations(settings, saved),
        )
    )
    other = list(
        sweep_pairs(
            "position_patching",
            tiny,
            PAIRS,
            settings,
            replacement=saved_activations(settings, saved[::-1]),
        )
    )
    for a, b in zip(own, again, strict=True):
        torch.testing.assert_close(
            a.metrics["kl_divergence"], b.metrics["kl_divergence"], atol=1e-11, rtol=0
        )
    assert (own[0].metrics["kl_divergence"] - other[0].metrics["kl_divergence"]).abs().max() > 1e-6
