"""Activations of an earlier run, used again: they are those that were measured, of the same model, pairs and settings."""

from dataclasses import replace

import pytest
import torch

from codi_lens import HookedCodi, UserError
from codi_lens.patching.outcomes import sweep_pairs
from codi_lens.patching.replacements import saved_activations
from codi_lens.patching.sweep import make_settings
from codi_lens.records.read import (
    RecordError,
    load,
)
from codi_lens.records.reuse import reusable_activations
from tests.models.recorded import edit
from tests.models.runs import PAIRS
from tests.models.tiny import write_tiny


def test_saved_activations_give_the_same_results(codi, record):
    settings = make_settings(codi, layers=[1])
    sweep = load(record)
    saved = reusable_activations(record, codi, sweep.pairs, settings)
    again = sweep_pairs(
        "iterative_patching",
        codi,
        sweep.pairs,
        settings,
        replacement=saved_activations(settings, saved),
    )
    for outcome, expected in zip(again, sweep.outcomes, strict=True):
        for name, values in expected.metrics.items():
            torch.testing.assert_close(
                outcome.metrics[name], values, atol=1e-9, rtol=0, equal_nan=True
            )


def test_saved_activations_are_what_is_patched_in(codi, record):
    """Other values give other results: the file is read, and not the run's own source."""
    settings, pairs = make_settings(codi, layers=[1]), load(record).pairs
    saved = [values + 1 for values in reusable_activations(record, codi, pairs, settings)]
    again = next(
        sweep_pairs(
            "iterative_patching",
            codi,
            pairs,
            settings,
            replacement=saved_activations(settings, saved),
        )
    )
    change = again.metrics["kl_divergence"] - load(record).outcomes[0].metrics["kl_divergence"]
    assert change.nan_to_num().abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_latents": 2}, r"num_latents \(there 3, here 2\)"),
        ({"site": "resid_pre"}, r"site \(there resid_post, here resid_pre\)"),
        ({"direction": "noise"}, r"direction \(there denoise, here noise\)"),
        ({"layers": [0, 1]}, r"layers \(there \[1\], here \[0, 1\]\)"),
        ({"positions": [0]}, r"positions \(there \[0, 1, 2\], here \[0\]\)"),
    ],
)
def test_activations_of_other_settings_are_refused(codi, record, options, message):
    settings = make_settings(codi, **({"layers": [1]} | options))
    with pytest.raises(UserError, match=f"the activations of .* cannot be used: .*{message}"):
        reusable_activations(record, codi, load(record).pairs, settings)


def test_activations_of_other_pairs_models_and_dtypes_are_refused(codi, record, tmp_path_factory):
    settings, pairs = make_settings(codi, layers=[1]), load(record).pairs
    with pytest.raises(UserError, match=r"cannot be used: 5 pairs there, 4 here$"):
        reusable_activations(record, codi, pairs[:-1], settings)
    changed = [replace(pairs[0], kind="other"), *pairs[1:]]
    with pytest.raises(UserError, match=r"1 of 5 pairs are others there \(here: pairs 0\)$"):
        reusable_activations(record, codi, changed, settings)
    folder = write_tiny(tmp_path_factory.mktemp("other"), seed=14)
    other = HookedCodi.from_pretrained(folder)
    with pytest.raises(
        UserError, match=r"dtype \(there float64, here float32\); model digest \(th"
    ):
        reusable_activations(record, other, pairs, settings)


def test_settings_that_activations_do_not_depend_on_may_differ(codi, record):
    settings = make_settings(codi, layers=[1], effect="direct", min_gap=0.0, seed=3, controls=True)
    assert len(reusable_activations(record, codi, load(record).pairs, settings)) == 5


def test_activations_of_an_unfinished_run_are_refused(codi, record):
    edit(record / "manifest.json", complete=False)
    with pytest.raises(RecordError, match="was interrupted"):
        reusable_activations(record, codi, PAIRS, make_settings(codi, layers=[1]))
