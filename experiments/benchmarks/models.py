"""Models and pairs to measure speed on: the embedded one, and random weights of a given shape."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from codi_lens import HookedCodi, Pair, Variant, load_pairs
from codi_lens.checkpoint.config import CodiConfig
from codi_lens.checkpoint.projection import make_projection
from codi_lens.model.backend import to_hooked
from codi_lens.model.devices import pick_device
from codi_lens.model.pretrained import load_pretrained

STEM = "a b c d e f g h "
"""Eight words: with the end token, nine positions are fed and read for an answer of one token."""
FRAME = 2
"""Tokens of a prompt beside its words: bos and bot."""


@dataclass(frozen=True)
class Shape:
    """A random model, and the length of the prompts that it is asked."""

    architecture: str = "llama"
    layers: int = 16
    d_model: int = 512
    heads: int = 8
    kv_heads: int = 4
    d_mlp: int = 2048
    d_vocab: int = 32_000
    latents: int = 6
    prompt: int = 100


SHAPES = {
    "medium": Shape(),
    "gpt2": Shape("gpt2", 12, 768, 12, 12, 3072, 50_260),
    "llama-1b": Shape(d_model=2048, heads=32, kv_heads=8, d_mlp=8192, d_vocab=128_259),
}


@dataclass(frozen=True)
class Bench:
    """One model twice, hooked and plain, sharing its weights; and pairs."""

    codi: HookedCodi
    plain: PreTrainedModel
    pairs: list[Pair]


def make_bench(
    shape: str | Shape, limit: int | None, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Bench:
    """The model and pairs of a shape; "toy" is the embedded model with its own pairs."""
    if shape == "toy":
        parts = load_pretrained("toy", device=device, dtype=dtype)
        pairs = [pair for pair in load_pairs("toy") if not pair.same_answer][: limit or 60]
        return Bench(HookedCodi.from_parts(parts, "toy"), parts.model, pairs)
    chosen = SHAPES[shape] if isinstance(shape, str) else shape
    plain = random_model(chosen, dtype)
    plain.to(pick_device(device))  # type: ignore[arg-type]
    projection = make_projection(chosen.d_model, chosen.d_model).to(plain.device, dtype).eval()
    projection.requires_grad_(False)
    config = CodiConfig(num_latents=chosen.latents, remove_eos=True, answer_stem=STEM)
    codi = HookedCodi(to_hooked(plain), projection, word_tokenizer(), config, name="random")
    return Bench(codi, plain, random_pairs(limit or 1, chosen.prompt - FRAME))


def random_model(shape: Shape, dtype: torch.dtype) -> PreTrainedModel:
    """A model of the shape whose weights are random and tame: logits of order one."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = _MODELS[shape.architecture](shape)
    finally:
        torch.set_default_dtype(before)
    model.eval().requires_grad_(False)
    return model


def _llama(shape: Shape) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=shape.d_vocab,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    )
    return LlamaForCausalLM(config)


def _gpt2(shape: Shape) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=shape.d_vocab,
        n_embd=shape.d_model,
        n_inner=shape.d_mlp,
        n_layer=shape.layers,
        n_head=shape.heads,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


_MODELS: dict[str, Callable[[Shape], PreTrainedModel]] = {"llama": _llama, "gpt2": _gpt2}


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; words are the letters a to h and the numbers up to 999."""
    words = ["<bos>", "<eos>", "<unk>", *"abcdefgh", *map(str, range(1000))]
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 0)]
    )
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def random_pairs(count: int, words: int) -> list[Pair]:
    """Pairs of questions of random numbers that differ in one of them, with answers of one token."""
    draw = torch.Generator().manual_seed(1)

    def numbers(n: int) -> list[str]:
        return [str(int(i)) for i in torch.randint(0, 1000, (n,), generator=draw)]

    pairs = []
    for index in range(count):
        question, place = numbers(words), words // 2
        other: list[Any] = [*question]
        other[place] = str((int(question[place]) + 1) % 1000)
        answers = (2 * index % 1000, (2 * index + 1) % 1000)
        clean, corrupted = (
            Variant(" ".join(text), answer)
            for text, answer in zip((question, other), answers, strict=True)
        )
        pairs.append(Pair(index, clean, corrupted))
    return pairs
