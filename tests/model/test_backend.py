"""Any LLaMA as a HookedTransformer: the same numbers, the same memory, nothing approximated."""

import warnings

import pytest
import torch
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from codi_lens import HookedCodi, UserError
from codi_lens.checkpoint.plain_cache import cached
from codi_lens.model.backend import to_hooked
from codi_lens.model.loop import LatentLoop
from codi_lens.model.pretrained import load_pretrained
from tests.models.tiny import LLAMA3_ROPE

PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
CONFIGS = {
    "grouped keys and values": {},
    "full heads": {"num_key_value_heads": 4},
    "one key/value head": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "llama3 rope": {"rope_parameters": LLAMA3_ROPE},
    "linear rope": {"rope_parameters": PLAIN_ROPE | {"rope_type": "linear", "factor": 4.0}},
    "large rope base": {"rope_parameters": PLAIN_ROPE | {"rope_theta": 500000.0}},
    "attention bias": {"attention_bias": True},
    "attention bias, full heads": {"attention_bias": True, "num_key_value_heads": 4},
    "attention bias, one key/value head": {"attention_bias": True, "num_key_value_heads": 1},
    "wide heads": {"head_dim": 16},
    "narrow heads": {"head_dim": 4},
    "wide heads, full": {"head_dim": 16, "num_key_value_heads": 4},
    "large epsilon": {"rms_norm_eps": 0.1},
    "one layer": {"num_hidden_layers": 1},
    "long context": {"max_position_embeddings": 131072},
    "everything": {
        "attention_bias": True,
        "head_dim": 16,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "rope_parameters": LLAMA3_ROPE,
    },
}


def make_llama(dtype=torch.float32, **options):
    torch.manual_seed(0)
    values = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": PLAIN_ROPE,
        "max_position_embeddings": 128,
    }
    llama = LlamaForCausalLM(LlamaConfig(**(values | options)))
    for name, parameter in llama.named_parameters():
        # Gains away from 1 and biases away from 0, so that leaving one out shows.
        nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.15)
    return llama.to(dtype).eval().requires_grad_(False)


def storages(tensors):
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS.keys())
def test_equals_transformers(options):
    llama = make_llama(**options)
    hooked = to_hooked(llama)
    tokens = torch.randint(50, (2, 40))
    expected = llama(tokens, output_hidden_states=True)
    logits, cache = hooked.run_with_cache(tokens)
    assert (logits - expected.logits).abs().max() < 1e-5
    last = hooked.cfg.n_layers - 1
    for layer in range(last):
        found = cache[f"blocks.{layer}.hook_resid_post"]
        assert (found - expected.hidden_states[layer + 1]).abs().max() < 1e-5
    # transformers' last hidden state is after the final norm, as the projection wants it.
    final = hooked.ln_final(cache[f"blocks.{last}.hook_resid_post"])
    assert (final - expected.hidden_states[-1]).abs().max() < 1e-5


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_weight_is_a_view_of_the_llama(options):
    llama = make_llama(**options)
    hooked = to_hooked(llama)
    theirs = storages(llama.parameters())
    for name, parameter in hooked.named_parameters():
        # The biases that LLaMA lacks are zeros of TransformerLens' own.
        if parameter.untyped_storage().data_ptr() not in theirs:
            assert "b_" in name
            assert not parameter.any()
    assert theirs <= storages(hooked.parameters())


def test_biases_are_used():
    """Zeroing any of the four changes the logits of both."""
    tokens = torch.randint(50, (1, 6))
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        llama = make_llama(attention_bias=True)
        before = to_hooked(llama)(tokens)
        getattr(llama.model.layers[0].self_attn, name).bias.zero_()
        after = to_hooked(llama)(tokens)
        if name != "k_proj":  # softmax does not see a bias that all keys share, before rotation
            assert (after - before).abs().max() > 1e-3
        assert (after - llama(tokens).logits).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_keeps_the_dtype(dtype):
    llama = make_llama(dtype)
    hooked = to_hooked(llama)
    assert {parameter.dtype for parameter in hooked.parameters()} == {dtype}
    assert hooked.cfg.dtype == dtype
    tokens = torch.randint(50, (1, 10))
    difference = (hooked(tokens) - llama(tokens).logits).abs().max()
    # In float64 transformers still takes its norms in float32.
    assert difference < {torch.float64: 1e-6, torch.bfloat16: 0.1, torch.float16: 0.01}[dtype]


def test_nothing_is_folded():
    llama = make_llama()
    hooked = to_hooked(llama)
    assert torch.equal(hooked.ln_final.w, llama.model.norm.weight)
    assert torch.equal(hooked.blocks[1].ln1.w, llama.model.layers[1].input_layernorm.weight)
    assert torch.equal(hooked.W_U, llama.lm_head.weight.T)


def test_no_parameter_wants_a_gradient():
    assert not any(parameter.requires_grad for parameter in to_hooked(make_llama()).parameters())


def test_shows_no_warning():
    llama = make_llama()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_hooked(llama)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mlp_bias": True}, "mlp_bias is true"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        (
            {"rope_parameters": PLAIN_ROPE | {"rope_type": "yarn", "factor": 4.0}},
            "rope_type is 'yarn'",
        ),
        ({"rope_parameters": PLAIN_ROPE | {"rope_type": "dynamic", "factor": 4.0}}, "'dynamic'"),
        (
            {"rope_parameters": LLAMA3_ROPE | {"partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
        ),
    ],
)
def test_what_cannot_be_computed_exactly_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        to_hooked(make_llama(**options))


class PlainBackend:
    """A transformers model without hooks, as the loop's transformer."""

    device = torch.device("cpu")
    hook_names = ()

    def __init__(self, model):
        self.model = model

    def empty_cache(self, batch, *, shared=False):
        assert not shared
        return DynamicCache()

    def embed(self, tokens):
        return self.model.get_input_embeddings()(tokens)

    def forward(self, embeddings, mask, cache, hooks=(), hidden=None):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -embeddings.shape[1] :]
        masks = {"attention_mask": mask, "position_ids": positions}
        out = self.model.base_model(inputs_embeds=embeddings, **masks, **cached(cache))
        return out.last_hidden_state

    def unembed(self, final, hooks=()):
        return self.model.lm_head(final)


def test_the_loop_runs_on_any_backend(tiny_folder):
    parts = load_pretrained(tiny_folder)
    codi = HookedCodi.from_parts(parts)
    loop = LatentLoop(PlainBackend(parts.model), parts.projection)
    questions = ["one plus 2?", "5 plus 6 plus 7 plus two plus one?"]
    tokens, mask = codi.tokens.prompts(questions)
    state = loop.think(loop.begin(loop.read(tokens, mask)), 3)
    expected = codi.think(questions, 3)
    end = torch.tensor([codi.tokens.end()] * 2)
    found = [*state.thoughts, loop.feed_tokens(state, end)]
    there = [*expected.thoughts, codi.loop.feed_tokens(expected, end)]
    for own, other in zip(found, there, strict=True):
        torch.testing.assert_close(own, other, atol=1e-3, rtol=1e-3)
