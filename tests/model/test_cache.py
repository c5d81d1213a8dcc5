"""The parts of a cached residual stream sum to what the model makes of it, whatever the norms' gains."""

import itertools

import pytest
import torch

from codi_lens import CodiCache, HookedCodi, UserError
from tests.models.tiny import write_tiny

QUESTIONS = ["The answer is: 12 plus 34?", "one plus 2?"]
LAYERS = 3


@pytest.fixture(scope="module")
def codi(tmp_path_factory):
    """With gains from 0.5 to 3.5, all different."""
    folder = write_tiny(tmp_path_factory.mktemp("gains"), seed=5)
    codi = HookedCodi.from_pretrained(folder, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in codi.model.named_parameters():
        if "ln" in name and name.endswith(".w"):
            parameter.copy_(0.5 + 3 * torch.rand(parameter.shape, generator=generator))
    return codi


@pytest.fixture(scope="module")
def run(codi):
    return codi.run_with_cache(QUESTIONS, [45, 3])


def decompositions(cache, **options):
    """Every way to take the residual stream in front of a norm apart, summed over the parts."""
    for projected in (None, torch.eye(32, dtype=torch.float64)):
        both = options | {"project_output_onto": projected}
        for neurons in (True, False):
            yield cache.get_full_resid_decomposition(expand_neurons=neurons, **both).sum(0)
        if not options.get("mlp_input"):
            both = {k: v for k, v in both.items() if k != "mlp_input"}
            yield cache.stack_neuron_results(incl_remainder=True, **both).sum(0)
    yield cache.decompose_resid(**options).sum(0)
    if not options.pop("mlp_input", False):
        yield cache.stack_head_results(incl_remainder=True, **options).sum(0)


@pytest.mark.parametrize("pos_slice", [None, -1, (2, 9)])
@pytest.mark.parametrize("rows", ["batch", "one row", "batch removed"])
def test_the_parts_sum_to_the_logits(codi, run, rows, pos_slice):
    logits, cache = run
    if rows == "one row":
        logits, cache = logits[1], cache.apply_slice_to_batch_dim(1)
    if rows == "batch removed":
        logits, cache = codi.run_with_cache(QUESTIONS[0], 45)
        logits, cache = logits[0], cache.remove_batch_dim()
    at = {None: slice(None), -1: -1, (2, 9): slice(2, 9)}[pos_slice]
    expected = logits[..., at, :]
    options = {"layer": LAYERS, "pos_slice": pos_slice}
    for parts in decompositions(cache, apply_ln=True, **options):
        torch.testing.assert_close(parts @ codi.model.W_U, expected, atol=1e-9, rtol=0)
    batched = cache.has_batch_dim
    for token, other in itertools.product((7, torch.tensor(11)), (None, 3)):
        stack = cache.decompose_resid(pos_slice=pos_slice)
        parts = cache.logit_attrs(stack, token, other, pos_slice=pos_slice, has_batch_dim=batched)
        difference = expected[..., int(token)] - (0 if other is None else expected[..., other])
        torch.testing.assert_close(parts.sum(0), difference, atol=1e-9, rtol=0)


@pytest.mark.parametrize("mlp_input", [False, True])
@pytest.mark.parametrize("layer", range(LAYERS))
def test_the_parts_sum_to_what_every_norm_passes_on(codi, run, layer, mlp_input):
    _, cache = run
    norm = codi.model.get_submodule(f"blocks.{layer}.ln{2 if mlp_input else 1}")
    expected = norm(cache["resid_mid" if mlp_input else "resid_pre", layer])
    options = {"layer": layer, "mlp_input": mlp_input}
    found = [
        cache.decompose_resid(apply_ln=True, **options).sum(0),
        cache.get_full_resid_decomposition(apply_ln=True, **options).sum(0),
        cache.get_full_resid_decomposition(
            apply_ln=True, project_output_onto=torch.eye(32, dtype=torch.float64), **options
        ).sum(0),
    ]
    for parts in found:
        torch.testing.assert_close(parts, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("pos_slice", [None, -1, (2, 9)])
@pytest.mark.parametrize("apply_ln", [False, True])
def test_in_front_of_layer_0_the_remainder_is_what_is_embedded(run, apply_ln, pos_slice):
    _, cache = run
    options = {"apply_ln": apply_ln, "pos_slice": pos_slice}
    expected = cache.decompose_resid(0, **options).sum(0)
    for parts in decompositions(cache, layer=0, **options):
        torch.testing.assert_close(parts, expected, atol=1e-9, rtol=0)
    direction = torch.arange(32, dtype=torch.float64)
    for remainder in (
        cache.stack_head_results(0, True, True, **options),
        cache.stack_neuron_results(
            0, return_labels=True, incl_remainder=True, project_output_onto=direction, **options
        ),
    ):
        assert remainder[1] == ["remainder"]
    torch.testing.assert_close(remainder[0][0], expected @ direction, atol=1e-9, rtol=0)


def test_the_logit_lens_ends_in_the_logits(codi, run):
    logits, cache = run
    lens = cache.accumulated_resid(apply_ln=True) @ codi.model.W_U
    torch.testing.assert_close(lens[-1], logits, atol=1e-9, rtol=0)
    first = codi.model.ln_final(cache["resid_pre", 1]) @ codi.model.W_U
    torch.testing.assert_close(lens[1], first, atol=1e-9, rtol=0)


def test_tokens_of_rows_and_of_positions_meet_their_own_rows(codi, run):
    logits, cache = run
    stack = cache.decompose_resid()
    by_row = cache.logit_attrs(stack, torch.tensor([5, 9])).sum(0)
    torch.testing.assert_close(by_row[0], logits[0, :, 5])
    torch.testing.assert_close(by_row[1], logits[1, :, 9])
    assert torch.equal(cache.logit_attrs(stack, [5, 9]).sum(0), by_row)
    tokens = torch.arange(2 * stack.shape[2]).view(2, -1) % 50
    by_position = cache.logit_attrs(stack, tokens).sum(0)
    expected = logits.gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(by_position, expected)
    second = cache.logit_attrs(stack, torch.tensor([9]), batch_slice=(1, 2)).sum(0)
    torch.testing.assert_close(second[0], logits[1, :, 9])


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_right_is_refused(codi, run):
    _, cache = run
    stack = cache.decompose_resid()
    for tokens in (1.7, True, -1, 10**6, 2**70, [3, -1], [0.5], None, [[1], [2, 3]]):
        with pytest.raises(UserError, match=r"tokens are .*; give ids from 0 to "):
            cache.logit_attrs(stack, tokens)
    for tokens in (" one", torch.tensor([1, 2, 3]), torch.zeros((1, 2, 3), dtype=torch.long)):
        with pytest.raises(UserError, match="tokens"):
            cache.logit_attrs(stack, tokens)
    with pytest.raises(UserError, match="no mode 'atn'; known are all, mlp, attn"):
        cache.decompose_resid(mode="atn")
    _, partial = codi.run_with_cache(QUESTIONS[0], 45, names_filter=lambda n: n != "hook_embed")
    for decompose in (partial.decompose_resid, partial.get_full_resid_decomposition):
        with pytest.raises(UserError, match="hook_embed"):
            decompose()


def test_rows_of_a_cache_keep_their_positions_and_mask(run):
    _, cache = run
    one = cache.apply_slice_to_batch_dim(1)
    assert isinstance(one, CodiCache)
    assert one.positions == cache.positions
    assert torch.equal(one.mask, cache.mask[1])
    assert torch.equal(one["resid_post", 2], cache["resid_post", 2][1])
    assert "steps prompt, bot, 0, 1, 2, eot, answer" in repr(cache)
