"""Attention over a shared prompt against TransformerLens' own, in float64."""

import pytest
import torch

from codi_lens import HookedCodi, UserError
from codi_lens.model.prefix_cache import SharedPrefixCache, check_config, group_rows
from tests.models.tiny import LLAMA3_ROPE, write_tiny

SHAPES = {
    "full heads": {"kv_heads": 4, "tied": False},
    "grouped heads": {"kv_heads": 2},
    "single kv head": {"kv_heads": 1},
    "llama3 rope": {"rope": LLAMA3_ROPE},
    "linear rope": {"rope": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    "biases": {"llama_options": {"attention_bias": True}},
}
QUESTIONS = ["12 plus 30?", "one plus two plus 3 plus 4 plus 5?", "1 plus 2?"]
TOLERANCE = 1e-12
"""The two orders of summation differ by roundings of 1e-16 that three layers amplify."""


@pytest.fixture(scope="module", params=SHAPES)
def codi(request, tmp_path_factory):
    folder = write_tiny(tmp_path_factory.mktemp("shape"), **SHAPES[request.param])
    return HookedCodi.from_pretrained(folder, dtype=torch.float64)


def embeddings(rows, new, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, new, 32, generator=draw, dtype=torch.float64)


def stock(codi, prompts, passes, masks):
    """Final states of rows on their own copies of the prompts, by TransformerLens' own attention."""
    state = codi.read([QUESTIONS[p] for p in prompts])
    # The batch's padding is that of the longest prompt in it, which is no matter of the result.
    return [codi.loop.advance(state, x, (), m) for x, m in zip(passes, masks, strict=True)]


@torch.no_grad()
@pytest.mark.parametrize(
    "prompts",
    [[0], [0, 0, 0, 1, 2], [2, 0, 1, 0, 2, 0], [1, 0, 1, 0], [1, 1]],
    ids=["one row", "one prompt many rows", "any order", "alternating", "not the first"],
)
def test_it_is_transformer_lens_attention(codi, prompts):
    rows = len(prompts)
    passes = [embeddings(rows, new, seed=new) for new in (1, 3, 1, 2)]
    masks = [torch.ones(x.shape[:2], dtype=torch.long) for x in passes]
    masks[1][0, 2] = 0  # right padding in the middle of the sequence, as behind a shorter answer
    expected = stock(codi, prompts, passes, masks)
    state = codi.read_to_share(QUESTIONS).select(prompts)
    for x, mask, there in zip(passes, masks, expected, strict=True):
        found = codi.loop.advance(state, x, (), mask)
        real = mask.bool()
        torch.testing.assert_close(found[real], there[real], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_every_hook_point_has_its_shape_and_value(codi):
    """All hook points of a block; only the rotated keys are those of the new positions alone."""
    prompts, seen = [0, 0, 1], ({}, {})
    x = embeddings(3, 2)
    names = [n for n in codi.model.hook_dict if n.startswith("blocks.1.")]
    states = (
        codi.read([QUESTIONS[p] for p in prompts]),
        codi.read_to_share(QUESTIONS[:2]).select(prompts),
    )
    for state, into in zip(states, seen, strict=True):

        def keep(activation, hook, into=into):
            into[hook.name] = activation.clone()

        codi.loop.advance(state, x, [(name, keep) for name in names])
    stock_seen, shared_seen = seen
    assert set(stock_seen) == set(shared_seen)
    for name, there in stock_seen.items():
        here = shared_seen[name]
        if name.endswith("hook_rot_k"):
            there = there[:, -2:]
        assert here.shape == there.shape, name
        torch.testing.assert_close(here, there, atol=TOLERANCE, rtol=0, msg=name)


@torch.no_grad()
def test_rows_are_selected_repeated_and_cropped(codi):
    state = codi.read_to_share(QUESTIONS).select([0, 1])
    first, second = embeddings(2, 2), embeddings(4, 1, seed=5)
    codi.loop.advance(state, first)
    before = state.mask.shape[1]
    again = state.select([1, 0, 1, 1])
    found = codi.loop.advance(again, second)
    chosen = [1, 0, 1, 1]
    there = stock(codi, chosen, [first[chosen], second], [None, None])[-1]
    torch.testing.assert_close(found, there, atol=TOLERANCE, rtol=0)
    # A state cropped goes on as if the last pass had not been.
    once_more = codi.loop.advance(again.crop(before), second)
    assert torch.equal(once_more, found)
    # A copy leaves what it came from.
    codi.loop.advance(state.copy(), first)
    assert state.mask.shape[1] == before
    assert state.cache[0].length == before


def test_the_prompt_is_not_copied_per_row(tiny):
    state = tiny.read_to_share(QUESTIONS)
    many = state.select([0] * 50 + [1, 2])
    for one, other in zip(state.cache.entries, many.cache.entries, strict=True):
        assert one.prefix_keys.data_ptr() == other.prefix_keys.data_ptr()
        assert other.prefix_keys.shape[0] == 3
    groups = many.cache[0].groups
    assert [group.prompts for group in groups] == [slice(0, 1, 1), slice(1, 3, 1)]


def test_rows_in_any_order_fall_into_groups():
    single, several = group_rows([3, 1, 0, 0, 2, 2], torch.device("cpu"))
    assert single.prompts.tolist() == [3, 1]
    assert single.rows == slice(0, 2)
    assert several.prompts == slice(0, 3, 2)
    assert several.rows == slice(2, 6)
    assert several.size == 2


def test_stock_attention_fails_loudly_on_a_shared_prompt(tiny):
    state = tiny.read_to_share(QUESTIONS[:1])
    attention = tiny.model.blocks[0].attn
    stock_forward = type(attention).__mro__[2].forward
    x = embeddings(1, 1)
    with pytest.raises(AttributeError, match="past_keys"):
        stock_forward(attention, x, x, x, past_kv_cache_entry=state.cache[0])


def test_rows_need_shared_prompts(tiny):
    state = tiny.read(QUESTIONS)
    for change in (lambda: state.select([0]), lambda: state.crop(1)):
        with pytest.raises(UserError, match="once the prompts are shared"):
            change()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("use_attn_result", True),
        ("use_split_qkv_input", True),
        ("ungroup_grouped_query_attention", True),
        ("attn_scores_soft_cap", 30.0),
        ("clip_qkv", 8.0),
        ("positional_embedding_type", "alibi"),
    ],
)
def test_other_attention_is_refused(tiny_folder, name, value):
    codi = HookedCodi.from_pretrained(tiny_folder)
    setattr(codi.model.cfg, name, value)
    with pytest.raises(UserError, match=rf"model\.cfg\.{name} is .*; rows on a shared prompt need"):
        codi.read_to_share(QUESTIONS)


def test_the_models_own_config_is_not_refused(tiny):
    check_config(tiny.model.cfg)
    assert isinstance(tiny.read_to_share(QUESTIONS).cache, SharedPrefixCache)
