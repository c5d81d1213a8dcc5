"""What is measured on each architecture: the batched engine is one run per cell, and parts sum to their whole."""

import pytest

from codi_lens import HookedCodi, Pair, Site, Variant, patch_positions
from codi_lens.model.hooks import replace
from tests.families.bases import KINDS
from tests.families.twins import twin
from tests.laws.oracle import captured, cell
from tests.models.invented import CELL_METRICS

PAIRS = [
    Pair(0, Variant("one plus two plus 7?", 6), Variant("12 plus 3?", 15)),  # lengths differ
    Pair(1, Variant("1 plus 2?", 12), Variant("1 plus 3?", 1207)),  # one answer begins the other
]
POSITIONS = ["bot", 1, "eot"]
THINKING = [f"{kind}-{layout}" for kind in KINDS for layout in ("codi_bin", "coconut")]


def loaded(name, folder):
    made = twin(name, folder)
    return HookedCodi.from_pretrained(made.source, dtype="float64", **made.options)


@pytest.mark.parametrize("name", THINKING)
def test_the_engine_equals_one_run_per_cell(name, tmp_path):
    codi = loaded(name, tmp_path)
    pairs = PAIRS if "codi" in name else PAIRS[1:]
    sweep = patch_positions(codi, pairs, positions=POSITIONS)
    changed = 0
    for p, pair in enumerate(pairs):
        for layer in range(2):
            for where, position in enumerate(POSITIONS):
                site = Site(f"blocks.{layer}.hook_resid_post", position)
                value = captured(codi, pair.clean.question, site, 3)
                expected = cell(codi, pair, [(site, replace(value))])
                changed += expected["kl_divergence"] > 1e-6
                for metric in CELL_METRICS:
                    found = float(sweep.metrics[metric][p, layer, where])
                    assert found == pytest.approx(expected[metric], abs=1e-9, nan_ok=True), metric
    # Nothing that is read follows from the last layer at eot: what it says is the stem's first token.
    assert changed == len(pairs) * (2 * len(POSITIONS) - 1)


@pytest.mark.parametrize("name", THINKING)
def test_parts_of_the_residual_stream_sum_to_every_logit(name, tmp_path):
    codi = loaded(name, tmp_path)
    logits, cache = codi.run_with_cache(PAIRS[0].clean.question, 42)
    norm, unembed = codi.model.ln_final, codi.model.unembed
    for token in (7, codi.ids.eos, codi.ids.eot):
        parts = cache.logit_attrs(cache.decompose_resid(), token).sum(0)
        beside = unembed.b_U[token]
        if getattr(norm, "b", None) is not None:
            beside = beside + norm.b @ unembed.W_U[:, token]
            assert norm.b.abs().max() > 0.05
        assert float((parts + beside - logits[..., token]).abs().max()) < 1e-9


@pytest.mark.parametrize("name", THINKING)
def test_single_precision_is_near(name, tmp_path):
    made = twin(name, tmp_path)
    fine, single = (
        HookedCodi.from_pretrained(made.source, dtype=dtype, **made.options).run_with_hooks(
            PAIRS[0].clean.question, 42
        )
        for dtype in ("float64", "float32")
    )
    for what in ("thoughts", "final_states", "logits"):
        exact = getattr(fine, what)
        error = (getattr(single, what).double() - exact).abs().max()
        assert float(error / exact.abs().max()) < 1e-5, what
