"""The batched engine against one run per cell, and the laws of patching."""

import pytest
import torch

from codi_lens import HookedCodi, Pair, Site, UserError, Variant, patch_positions
from codi_lens.data.answers import contrast
from codi_lens.model.hooks import replace
from codi_lens.patching.engine import run_batch
from codi_lens.patching.interventions import constant, from_run
from codi_lens.patching.readout import READOUTS
from codi_lens.patching.schedule import Patch, Run
from tests.laws.oracle import captured, cell, frozen
from tests.models.invented import CELL_METRICS
from tests.models.tiny import write_tiny

PAIRS = [
    Pair(0, Variant("12 plus 30?", 42), Variant("12 plus 31?", 43)),
    Pair(1, Variant("one plus two plus 3?", 6), Variant("12 plus 3?", 15)),  # lengths differ
    Pair(2, Variant("1 plus 2?", 12), Variant("1 plus 3?", 1207)),  # one answer begins the other
    Pair(3, Variant("5 plus 6?", 991234), Variant("5 plus 7?", 9955)),  # differ at the second token
    Pair(4, Variant("5 plus 6?", 11), Variant("6 plus 5?", 11)),  # same answer
]


@pytest.fixture(scope="module")
def preferring(tmp_path_factory):
    """A random model with large answer gaps, so that some pairs have a recovery."""
    return HookedCodi.from_pretrained(
        write_tiny(tmp_path_factory.mktemp("p"), seed=13), dtype=torch.float64
    )


def expected_cell(codi, pair, layer, position, effect, direction, num_latents=None):
    base, source = (
        (pair.corrupted, pair.clean) if direction == "denoise" else (pair.clean, pair.corrupted)
    )
    latents = codi.config.num_latents if num_latents is None else num_latents
    site = Site(f"blocks.{layer}.hook_resid_post", position)
    hooks = frozen(codi, base.question, latents) if effect == "direct" else []
    hooks.append((site, replace(captured(codi, source.question, site, latents))))
    return cell(codi, pair, hooks, direction=direction, num_latents=num_latents)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("effect", ["total", "direct"])
def test_the_engine_equals_one_run_per_cell(tiny, effect, direction):
    sweep = patch_positions(tiny, PAIRS, effect=effect, direction=direction)
    for p, pair in enumerate(PAIRS):
        for layer in range(3):
            for position in (0, 2):
                expected = expected_cell(tiny, pair, layer, position, effect, direction)
                for name in CELL_METRICS:
                    found = float(sweep.metrics[name][p, layer, position])
                    assert found == pytest.approx(expected[name], abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("options", [{"kv_heads": 4, "tied": False}, {"kv_heads": 1}])
def test_the_engine_on_other_shapes_and_numbers_of_latents(tmp_path, options):
    codi = HookedCodi.from_pretrained(write_tiny(tmp_path, **options), dtype=torch.float64)
    for latents in (1, 4):
        sweep = patch_positions(codi, PAIRS[:2], num_latents=latents, layers=[1])
        for p, pair in enumerate(PAIRS[:2]):
            expected = expected_cell(codi, pair, 1, latents - 1, "total", "denoise", latents)
            found = float(sweep.metrics["kl_divergence"][p, 0, -1])
            assert found == pytest.approx(expected["kl_divergence"], abs=1e-9)


def test_results_do_not_depend_on_what_runs_side_by_side(tiny):
    together = patch_positions(tiny, PAIRS)
    alone = patch_positions(tiny, PAIRS, layers=[1], batch_rows=1)
    few = patch_positions(tiny, PAIRS, layers=[2, 0], positions=[1])
    for name in CELL_METRICS:
        torch.testing.assert_close(
            together.metrics[name][:, 1:2], alone.metrics[name], atol=1e-9, rtol=0, equal_nan=True
        )
        chosen = together.metrics[name][:, [2, 0]][:, :, [1]]
        torch.testing.assert_close(chosen, few.metrics[name], atol=1e-9, rtol=0, equal_nan=True)


def test_recovery_of_the_unpatched_runs_is_zero_and_one(preferring):
    sweep = patch_positions(preferring, PAIRS)
    defined = [o for o in sweep.outcomes if o.source.metrics["recovery"] == pytest.approx(1)]
    undefined = [
        o for o in sweep.outcomes if o.source.metrics["recovery"] != o.source.metrics["recovery"]
    ]
    assert len(defined) + len(undefined) == len(PAIRS)
    assert len(defined) == 3
    assert all(o.base.metrics["recovery"] == pytest.approx(0, abs=1e-12) for o in defined)
    for outcome in sweep.outcomes:
        assert outcome.base.metrics["kl_divergence"] == pytest.approx(0, abs=1e-12)
        assert outcome.source.metrics["kl_to_source"] == pytest.approx(0, abs=1e-12)


def test_swapping_pair_and_direction_exchanges_clean_and_corrupted(tiny):
    swapped = [Pair(p.pair_id, p.corrupted, p.clean) for p in PAIRS]
    one = patch_positions(tiny, PAIRS, direction="denoise").metrics
    other = patch_positions(tiny, swapped, direction="noise").metrics
    exchanged = {
        "clean_answer_score": "corrupted_answer_score",
        "corrupted_answer_score": "clean_answer_score",
        "logprob_clean": "logprob_corrupted",
        "logprob_corrupted": "logprob_clean",
    }
    negated = {"answer_logit_diff", "answer_logit_diff_change", "logit_diff"}
    for name in CELL_METRICS:
        expected = -other[name] if name in negated else other[exchanged.get(name, name)]
        torch.testing.assert_close(one[name], expected, atol=1e-9, rtol=0, equal_nan=True)


@pytest.mark.parametrize("effect", ["total", "direct"])
def test_effects_vanish_at_the_structural_zeros_and_nowhere_else(tiny, effect):
    sweep = patch_positions(tiny, PAIRS[:4], effect=effect)
    size = sweep.metrics["l2_difference"].amax(0)
    zeros = sweep.structural_zeros()
    assert zeros.any()
    assert size[zeros].max() < 1e-10
    assert size[~zeros].min() > 1e-4


def test_a_structural_zero_is_exact_at_equal_batch_shape(tiny):
    question = PAIRS[0].corrupted.question
    plain = tiny.run_with_hooks(question, 42)
    hook = (Site("blocks.2.hook_resid_post", 2), replace(torch.ones(32, dtype=torch.float64)))
    assert torch.equal(tiny.run_with_hooks(question, 42, fwd_hooks=[hook]).logits, plain.logits)


def answer_tokens(codi, pair):
    answers = (pair.clean.answer, pair.corrupted.answer)
    return contrast(codi.tokens.tokenizer, codi.config.answer_stem, *answers, codi.ids.eos)


def run_pair(codi, pair, rows):
    """Readout of hand-made rows on prompts (corrupted, clean)."""
    with torch.no_grad():
        run = run_batch(codi, [pair.corrupted.question, pair.clean.question], rows, 3)
        answers = READOUTS["stem"].read(codi, run, [0] * len(rows), [answer_tokens(codi, pair)])
        return answers.logits(0, run.batch_index), run


def grid(source, layers=range(3), positions=range(3)):
    intervention = from_run(source) if isinstance(source, int) else constant(source)
    return tuple(
        Patch(Site(f"blocks.{layer}.hook_resid_post", k), intervention)
        for layer in layers
        for k in positions
    )


def test_a_run_patched_with_itself_is_itself(tiny):
    rows = [Run(0), Run(1), Run(1, grid(1)), Run(1, grid(2))]
    readout, _ = run_pair(tiny, PAIRS[0], rows)
    for row in (2, 3):
        torch.testing.assert_close(readout.clean[row], readout.clean[1], atol=1e-12, rtol=0)


def test_clean_prompt_and_clean_thoughts_together_recover_everything(preferring):
    """Every position that the answer reads is then the clean run's, so recovery is 1."""
    pair = PAIRS[0]
    length = {len(preferring.tokens.prompt(v.question)) for v in (pair.clean, pair.corrupted)}
    assert len(length) == 1, "the law needs prompts of equal length"
    base, source = pair.corrupted.question, pair.clean.question
    kept = {}

    def keep(activation, hook):
        kept[hook.name, len(kept)] = activation.clone()

    prompt_sites = [Site(f"blocks.{layer}.hook_resid_pre", "prompt") for layer in range(3)]
    bot_sites = [Site(f"blocks.{layer}.hook_resid_pre", "bot") for layer in range(3)]
    clean = preferring.run_with_hooks(
        source, 42, fwd_hooks=[(s, keep) for s in prompt_sites + bot_sites]
    )
    values = list(kept.values())
    hooks = [
        (site, lambda activation, hook, value=value: value.clone())
        for site, value in zip(prompt_sites + bot_sites, values, strict=True)
    ]
    hooks += [(Site("hook_embed", k), replace(clean.thoughts[0, k])) for k in range(3)]
    patched = preferring.run_with_hooks(base, 42, fwd_hooks=hooks)
    torch.testing.assert_close(patched.logits, clean.logits, atol=1e-10, rtol=0)
    plain = preferring.run_with_hooks(base, 42)
    assert (plain.logits - clean.logits).abs().max() > 1e-2


def test_freezing_holds_every_later_thought(tiny):
    made, fed = Site("hook_embed", 2), Site("blocks.0.hook_resid_pre", 2)
    patches = grid(1, [1], [0])
    rows = [
        Run(0),
        Run(1),
        Run(0, patches, thoughts_from=0, capture=(made, fed)),
        Run(0, patches, capture=(made, fed)),
    ]
    _, run = run_pair(tiny, PAIRS[0], rows)
    assert torch.equal(run.captured[2, fed], run.state.thoughts[2][run.batch_index[0]])
    assert torch.equal(run.captured[3, fed], run.state.thoughts[2][run.batch_index[3]])
    assert not torch.allclose(run.captured[3, fed], run.captured[2, fed], atol=1e-6)
    # What is kept of a thought is what the run made, whatever it was then fed.
    assert torch.equal(run.captured[2, made], run.state.thoughts[2][run.batch_index[2]])
    assert not torch.equal(run.captured[2, made], run.captured[2, fed])


def test_the_two_routes_of_a_patch(tiny):
    """Last layer: wholly through the next thought. Last latent: wholly through attention to it."""
    last_layer, last_latent = grid(1, [2], [1]), grid(1, [1], [2])
    rows = [Run(0), Run(1)]
    for patches in (last_layer, last_latent):
        total = len(rows)
        rows += [Run(0, patches), Run(0, patches, thoughts_from=0), Run(0, (), thoughts_from=total)]
    readout, _ = run_pair(tiny, PAIRS[0], rows)
    base, total_l, direct_l, indirect_l = (readout.clean[i] for i in (0, 2, 3, 4))
    assert (total_l - base).abs().max() > 1e-3
    torch.testing.assert_close(direct_l, base, atol=1e-12, rtol=0)
    torch.testing.assert_close(indirect_l, total_l, atol=1e-12, rtol=0)
    total_k, direct_k, indirect_k = (readout.clean[i] for i in (5, 6, 7))
    assert (total_k - base).abs().max() > 1e-3
    torch.testing.assert_close(direct_k, total_k, atol=1e-12, rtol=0)
    torch.testing.assert_close(indirect_k, base, atol=1e-12, rtol=0)


def test_patches_at_bot_and_eot_and_of_the_thought(tiny):
    pair = PAIRS[1]
    places = [
        ("blocks.1.hook_resid_post", "bot"),
        ("blocks.0.hook_resid_post", "eot"),
        ("hook_embed", 1),
    ]
    values = [captured(tiny, pair.clean.question, Site(*place), 3) for place in places]
    by_run = [Run(0, (Patch(Site(*place), from_run(1)),)) for place in places]
    by_value = [
        Run(0, (Patch(Site(*place), constant(value)),))
        for place, value in zip(places, values, strict=True)
    ]
    readout, _ = run_pair(tiny, pair, [Run(0), Run(1), *by_run, *by_value])
    for i, (place, value) in enumerate(zip(places, values, strict=True)):
        hooks = [(Site(*place), replace(value))]
        run = tiny.run_with_hooks(pair.corrupted.question, pair.clean.answer, fwd_hooks=hooks)
        expected = run.logits[0, len(answer_tokens(tiny, pair).stem) :][: readout.clean.shape[1]]
        for row in (2 + i, 5 + i):
            torch.testing.assert_close(readout.clean[row], expected, atol=1e-10, rtol=0)


def test_values_given_by_the_caller_are_not_written(tiny):
    value = torch.ones(32, dtype=torch.float64)
    run_pair(tiny, PAIRS[0], [Run(0), Run(1), Run(0, grid(value))])
    assert torch.equal(value, torch.ones(32, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [3]}, r"layers \[3\]: give different numbers from 0 to 2"),
        ({"positions": [0, 0]}, r"positions \[0, 0\]"),
        ({"num_latents": 0, "layers": [7]}, "layers"),
        ({"effect": "frozen"}, "no effect 'frozen'; known are total, direct, indirect, all"),
        ({"direction": "up"}, "no direction 'up'"),
    ],
)
def test_what_cannot_be_swept(tiny, options, message):
    with pytest.raises(UserError, match=message):
        patch_positions(tiny, PAIRS, **options)


def test_no_pairs(tiny):
    with pytest.raises(UserError, match="no pairs"):
        patch_positions(tiny, [])
