"""All three experiments against one run per cell, and the laws that tie them together."""

import pytest
import torch

from codi_lens import (
    Pair,
    Site,
    UserError,
    Variant,
    patch_iteratively,
    patch_layers,
    patch_positions,
)
from codi_lens.analysis.aggregates import aggregate, interaction
from codi_lens.choices import RESIDUAL_SITES
from codi_lens.model.hooks import replace
from codi_lens.patching.sweep import make_settings
from tests.laws.oracle import captured, cell, frozen
from tests.models.invented import CELL_METRICS

PAIRS = [
    Pair(0, Variant("12 plus 30?", 42), Variant("12 plus 31?", 43)),
    Pair(1, Variant("one plus two plus 3?", 6), Variant("12 plus 3?", 15)),  # lengths differ
    Pair(2, Variant("5 plus 6?", 991234), Variant("5 plus 7?", 9955)),  # differ at the second token
]
ROWS, COLUMNS = ("thought", 0, 1, 2), ("bot", 0, 1, 2, "eot")


def place(layer, step, site="resid_post"):
    return Site("hook_embed" if layer == "thought" else f"blocks.{layer}.hook_{site}", step)


def fed_thoughts(codi, question, hooks):
    """Hooks that feed the thoughts which a patched run fed to itself."""
    fed = []

    def keep(activation, hook):
        fed.append(activation[0, -1].clone())

    # Before the patches, so that a patched thought itself is not passed on, only what comes of it.
    keepers = [(Site("hook_embed", k), keep) for k in range(3)]
    codi.run_with_hooks(question, 1, fwd_hooks=[*keepers, *hooks])
    return [(Site("hook_embed", k), replace(fed[k])) for k in range(3)]


def oracle_hooks(codi, pair, places, effect, direction="denoise"):
    """Hooks on the base run that make one cell of an effect."""
    base, source = (
        (pair.corrupted, pair.clean) if direction == "denoise" else (pair.clean, pair.corrupted)
    )
    patches = [(site, replace(captured(codi, source.question, site, 3))) for site in places]
    if effect == "total":
        return patches
    if effect == "direct":
        return [*frozen(codi, base.question, 3), *patches]
    return fed_thoughts(codi, base.question, patches)


def agree(found, expected, where):
    for name in CELL_METRICS:
        assert float(found[name]) == pytest.approx(expected[name], abs=1e-9, nan_ok=True), (
            name,
            where,
        )


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_total_direct_and_indirect_effects_equal_one_run_per_cell(tiny, direction):
    sweep = patch_positions(
        tiny, PAIRS, layers=ROWS, positions=COLUMNS, effect="all", direction=direction
    )
    assert sweep.axes["effect"] == ("total", "direct", "indirect")
    for p, pair in enumerate(PAIRS[1:], start=1):
        for layer, step in (
            ("thought", 1),
            ("thought", "eot"),
            (1, "bot"),
            (0, 0),
            (2, 1),
            (1, 2),
            (0, "eot"),
        ):
            for effect in sweep.axes["effect"]:
                where = {"effect": effect, "layer": layer, "position": step}
                found = {name: sweep.values(name, **where)[p] for name in CELL_METRICS}
                hooks = oracle_hooks(tiny, pair, [place(layer, step)], effect, direction)
                agree(found, cell(tiny, pair, hooks, direction=direction), where)


@pytest.mark.parametrize("site", RESIDUAL_SITES)
def test_every_site_equals_one_run_per_cell(tiny, site):
    sweep = patch_positions(tiny, PAIRS[:2], site=site, positions=("bot", 0, 2), effect="direct")
    for p, pair in enumerate(PAIRS[:2]):
        for layer, step in ((0, "bot"), (1, 0), (2, 0), (2, 2)):
            found = {n: sweep.values(n, layer=layer, position=step)[p, 0] for n in CELL_METRICS}
            hooks = oracle_hooks(tiny, pair, [place(layer, step, site)], "direct")
            agree(found, cell(tiny, pair, hooks), (site, layer, step))


@pytest.mark.parametrize("effect", ["total", "direct", "indirect"])
@pytest.mark.parametrize("site", RESIDUAL_SITES)
def test_effects_vanish_exactly_at_the_structural_zeros(tiny, site, effect):
    options = {"layers": ROWS, "positions": COLUMNS, "site": site, "effect": effect}
    sweep = patch_positions(tiny, PAIRS, **options)
    size = sweep.metrics["l2_difference"].amax(0)
    zeros = sweep.structural_zeros()
    assert zeros.any()
    assert size[zeros].max() < 1e-10
    assert size[~zeros].min() > 1e-6


def test_layer_wise_patching_equals_one_run_per_layer(tiny):
    sweep = patch_layers(tiny, PAIRS, effect="all")
    effects = ("total", "direct", "indirect")
    assert sweep.axes == {"effect": effects, "row": (0, 1, 2), "column": ("all",)}
    for p, pair in enumerate(PAIRS):
        for layer in range(3):
            for effect in effects:
                found = {n: sweep.values(n, effect=effect, layer=layer)[p] for n in CELL_METRICS}
                assert all(values.shape == (1,) for values in found.values())
                places = [place(layer, step) for step in range(3)]
                expected = cell(tiny, pair, oracle_hooks(tiny, pair, places, effect))
                agree(found, expected, (layer, effect))
    direct = sweep.structural_zeros("direct")
    assert direct.tolist() == [[False], [False], [True]]
    assert sweep.values("l2_difference", effect="direct", layer=2).max() < 1e-10


def chained_by_hand(codi, pair, layer, iterations):
    """The chain as its definition has it: patch, read what is generated next, patch that, one run each."""
    value = captured(codi, pair.clean.question, place(layer, 0), 3)
    hooks, generated = [], []
    for i in range(iterations + 1):
        kept = []
        hooks = [(place(layer, i), replace(value))]
        if i < 2:

            def keep(activation, hook, kept=kept):
                kept.append(activation[0, -1].clone())

            reading = [*hooks, (place(layer, i + 1), keep)]
            codi.run_with_hooks(pair.corrupted.question, 1, fwd_hooks=reading)
            value = kept[0]
            generated.append(value)
    return hooks, generated


def test_iterative_patching_equals_one_run_per_iteration(tiny):
    sweep = patch_iteratively(tiny, PAIRS)
    source = {
        (p, layer): [captured(tiny, pair.clean.question, place(layer, k), 3) for k in range(3)]
        for p, pair in enumerate(PAIRS)
        for layer in range(3)
    }
    for p, pair in enumerate(PAIRS):
        for layer in (0, 2):
            for i in range(3):
                patches = [(place(layer, k), replace(source[p, layer][k])) for k in range(i + 1)]
                chained, generated = chained_by_hand(tiny, pair, layer, i)
                wanted = {"single": patches[i:], "cumulative": patches, "chained": chained}
                if i == 2:
                    wanted["parallel"] = patches
                for strategy, hooks in wanted.items():
                    where = {"effect": strategy, "layer": layer, "iteration": i}
                    found = {n: sweep.values(n, **where)[p] for n in CELL_METRICS}
                    agree(found, cell(tiny, pair, hooks), where)
                if i < 2:
                    left = sweep.outcomes[p].generated[2, layer, i]
                    torch.testing.assert_close(left, generated[i], atol=1e-10, rtol=0)
    assert sweep.outcomes[0].generated[:, :, 2].isnan().all()
    assert sweep.values("kl_divergence", effect="parallel", iteration=0).isnan().all()


def test_the_laws_between_the_experiments(tiny):
    iterative, position = patch_iteratively(tiny, PAIRS), patch_positions(tiny, PAIRS)
    together = patch_layers(tiny, PAIRS)
    for name in CELL_METRICS:
        single = iterative.values(name, effect="single")
        close = {"atol": 1e-10, "rtol": 0, "equal_nan": True}
        torch.testing.assert_close(single, position.metrics[name], **close)
        for strategy in ("cumulative", "chained"):
            first = iterative.values(name, effect=strategy, iteration=0)
            torch.testing.assert_close(first, single[..., 0], **close)
        for strategy in ("cumulative", "parallel"):
            last = iterative.values(name, effect=strategy, iteration=2)
            torch.testing.assert_close(last, together.metrics[name][..., 0], **close)
    chained = iterative.values("l2_difference", effect="chained", iteration=2)
    parallel = iterative.values("l2_difference", effect="parallel", iteration=2)
    assert (chained - parallel).abs().max() > 1e-3, "two strategies equal by construction"


def test_keeping_the_earlier_patches_of_a_chain_changes_nothing(tiny):
    pair = PAIRS[0]
    first = captured(tiny, pair.clean.question, place(1, 0), 3)
    alone = tiny.run_with_hooks(
        pair.corrupted.question, 42, fwd_hooks=[(place(1, 0), replace(first))]
    )
    hooks, generated = chained_by_hand(tiny, pair, 1, 1)
    kept = [(place(1, 0), replace(first)), (place(1, 1), replace(generated[0]))]
    both = tiny.run_with_hooks(pair.corrupted.question, 42, fwd_hooks=kept)
    torch.testing.assert_close(both.logits, alone.logits, atol=1e-11, rtol=0)
    only_second = tiny.run_with_hooks(pair.corrupted.question, 42, fwd_hooks=hooks)
    assert (only_second.logits - alone.logits).abs().max() > 1e-3


def test_similarities_by_hand(tiny):
    sweep = patch_iteratively(tiny, PAIRS)
    outcome = sweep.outcomes[1]
    g = outcome.generated[0, 1, 0]
    clean, corrupted = outcome.activations[1, 1], outcome.base_activations[1, 1]

    def cosine(a, b):
        return float((a @ b) / (a.norm() * b.norm()))

    found = {
        n: float(sweep.values(n, effect="single", layer=1, iteration=0)[1]) for n in outcome.metrics
    }
    assert found["similarity_to_clean"] == pytest.approx(cosine(g, clean))
    assert found["similarity_to_corrupted"] == pytest.approx(cosine(g, corrupted))
    assert found["bias"] == pytest.approx(cosine(g, clean) - cosine(g, corrupted))
    assert found["clean_corrupted_similarity"] == pytest.approx(cosine(clean, corrupted))
    restored = (g - corrupted) @ (clean - corrupted) / (clean - corrupted).pow(2).sum()
    assert found["restored"] == pytest.approx(float(restored))
    assert sweep.values("bias", effect="single", iteration=2).isnan().all()


def test_a_model_with_one_latent(tiny):
    iterative = patch_iteratively(tiny, PAIRS, num_latents=1)
    assert iterative.axes["column"] == (0,)
    together = patch_layers(tiny, PAIRS, num_latents=1)
    for strategy in ("single", "cumulative", "chained", "parallel"):
        found = iterative.values("logit_diff", effect=strategy, iteration=0)
        torch.testing.assert_close(
            found, together.metrics["logit_diff"][..., 0], atol=1e-11, rtol=0
        )


def test_everything_is_read_at_eot_when_asked(tiny):
    sweep = patch_positions(tiny, PAIRS, answer_start="eot", layers=[1], positions=[1])
    for p, pair in enumerate(PAIRS):
        site = place(1, 1)
        hook = (site, replace(captured(tiny, pair.clean.question, site, 3)))
        logits = tiny.run_with_hooks(pair.corrupted.question, 1, fwd_hooks=[hook]).logits[0, 0]
        numbers = [tiny.tokens.answer(v.answer)[5:] for v in (pair.clean, pair.corrupted)]
        scores = [sum(float(logits[t]) for t in number) / len(number) for number in numbers]
        assert float(sweep.metrics["clean_answer_score"][p]) == pytest.approx(scores[0])
        found = float(sweep.metrics["answer_logit_diff"][p])
        assert found == pytest.approx(scores[0] - scores[1])


def test_the_interaction_is_what_the_parts_leave(tiny):
    sweep = patch_positions(tiny, PAIRS, effect="all")
    group = aggregate(sweep)
    metric = "answer_logit_diff_change"
    left = interaction(sweep, group, metric)
    means = [sweep.values(metric, effect=e).mean(0) for e in ("total", "direct", "indirect")]
    torch.testing.assert_close(left, means[0] - means[1] - means[2], atol=1e-10, rtol=0)
    # Last layer: the direct effect vanishes; last latent: the indirect one does.
    torch.testing.assert_close(means[0][2], means[2][2], atol=1e-10, rtol=0)
    torch.testing.assert_close(means[0][:, 2], means[1][:, 2], atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"site": "hook_z"}, "no site 'hook_z'; known are resid_pre"),
        ({"effect": "hold"}, "no effect 'hold'; known are total, direct, indirect, all"),
        ({"answer_start": "stem!"}, "no answer_start"),
        ({"positions": ["prompt"]}, "positions .* or bot or eot"),
        ({"layers": ["embed"]}, "no place 'embed'; give layers"),
    ],
)
def test_what_cannot_be_asked(tiny, options, message):
    with pytest.raises(UserError, match=message):
        make_settings(tiny, **options)
