"""What tells the shipped models apart: the base model, how it cuts text, and the frame of its sequences."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from codi_lens.checkpoint.layouts import COCONUT, CODI, Layout
from codi_lens.checkpoint.projection import make_projection
from codi_lens.organisms.toy.tokenizer import (
    ANSWER_STEM,
    COCONUT_STEM,
    build_gpt2_tokenizer,
    build_tokenizer,
)


@dataclass(frozen=True)
class Size:
    """Shape of the model."""

    n_layers: int = 3
    d_model: int = 96
    d_mlp: int = 256
    n_heads: int = 4
    n_kv_heads: int = 2
    d_projection: int = 128
    """Of the projection's middle; 0 where a family has none."""
    n_latents: int = 6


@dataclass(frozen=True)
class Family:
    """A base model and a layout."""

    layout: Layout
    make_base: Callable[[Size, int], PreTrainedModel]
    """Random weights of a size and a vocabulary."""
    make_tokenizer: Callable[[], PreTrainedTokenizerBase]
    answer_stem: str
    name: str
    """In words, for the card."""
    size: Size = field(default_factory=Size)
    weights: torch.dtype | None = None
    """In which all weights are stored that have no adapter; None: as they were trained."""
    adapters: torch.dtype | None = torch.float32
    """In which adapters are stored; None: there are none."""
    filename: str | None = None
    """Of the weights, where it is not the usual one."""

    def extra_ids(self, n_vocab: int) -> dict[str, int]:
        """Ids of the tokens behind the tokenizer's own, by name."""
        return {name: n_vocab + i for i, name in enumerate(self.layout.extra_tokens)}

    def make_projection(self, size: Size) -> nn.Module:
        """From a final state to a thought."""
        if self.layout.projection is None:
            return nn.Identity()
        return make_projection(size.d_model, size.d_projection)


def _llama(size: Size, n_vocab: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=n_vocab,
        hidden_size=size.d_model,
        intermediate_size=size.d_mlp,
        num_hidden_layers=size.n_layers,
        num_attention_heads=size.n_heads,
        num_key_value_heads=size.n_kv_heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=1 / math.sqrt(size.d_model) / 2,
    )
    return LlamaForCausalLM(config)


def _gpt2(size: Size, n_vocab: int) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=n_vocab,
        n_embd=size.d_model,
        n_inner=size.d_mlp,
        n_layer=size.n_layers,
        n_head=size.n_heads,
        n_positions=128,
        initializer_range=1 / math.sqrt(size.d_model) / 2,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPT2LMHeadModel(config)


FAMILIES = {
    "toy": Family(CODI, _llama, build_tokenizer, ANSWER_STEM, "CODI LLaMA"),
    "toy-gpt2": Family(
        CODI,
        _gpt2,
        build_gpt2_tokenizer,
        ANSWER_STEM,
        "CODI GPT-2",
        Size(n_layers=2, d_model=80, d_mlp=320, n_kv_heads=4, d_projection=96),
        adapters=torch.float16,
    ),
    "toy-coconut": Family(
        COCONUT,
        _gpt2,
        build_gpt2_tokenizer,
        COCONUT_STEM,
        "Coconut GPT-2",
        Size(n_layers=2, d_mlp=384, n_kv_heads=4, d_projection=0),
        weights=torch.float16,
        adapters=None,
        filename="checkpoint_1",
    ),
}
"""By the name of the shipped model."""
