"""The base models and tokenizers of the twins: two random layers of each architecture, about 120 words."""

from collections.abc import Callable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

KINDS = ("llama", "gpt2", "qwen2", "qwen3")
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS = dict.fromkeys(KINDS, LINEARS) | {"gpt2": ["c_attn", "c_proj", "c_fc"]}
WORDS = ["The", " answer", " is", ":", "one", "two", " one", " two", " plus", "?", "#", "\n", " "]
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


def fresh(kind: str, rows: int) -> PreTrainedModel:
    """A random model of which every part matters: gains that are not 1, biases that are not 0."""
    if kind == "gpt2":
        config = GPT2Config(
            vocab_size=rows, n_embd=32, n_layer=2, n_head=4, n_positions=128, n_inner=48
        )
        model = GPT2LMHeadModel(config)
    elif kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(vocab_size=rows, tie_word_embeddings=True, **SMALL))
    elif kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(vocab_size=rows, tie_word_embeddings=True, **SMALL))
    else:
        model = Qwen3ForCausalLM(
            Qwen3Config(vocab_size=rows, tie_word_embeddings=False, head_dim=12, **SMALL)
        )
    for name, parameter in model.named_parameters():
        norm = any(part in name for part in ("norm", "ln_"))
        gain = norm and name.endswith("weight")
        nn.init.normal_(parameter, mean=float(gain), std=0.1 if norm else 0.3)
    if not model.config.tie_word_embeddings:
        # The last row is eot in most layouts: often the most likely token, so that leaving it out shows.
        model.lm_head.weight.data[-1] *= 4
    return model.eval()


def projection(width: int = 24, norm: bool = True) -> dict[str, torch.Tensor]:
    """CODI's, under its official names."""
    shapes = {"1.weight": (width, 32), "1.bias": (width,), "3.weight": (32, width), "3.bias": (32,)}
    if norm:
        shapes |= {"ln.weight": (32,), "ln.bias": (32,)}
    return {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}


def _rotary_leftovers(config: PretrainedConfig) -> dict[str, torch.Tensor]:
    layers = range(config.num_hidden_layers)
    return {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.rand(4) for i in layers}


def _mask_leftovers(config: PretrainedConfig) -> dict[str, torch.Tensor]:
    found = {}
    for layer in range(config.n_layer):
        stem = f"transformer.h.{layer}.attn."
        found[stem + "bias"] = torch.ones(128, 128, dtype=torch.bool).tril().view(1, 1, 128, 128)
        found[stem + "masked_bias"] = torch.tensor(-1e4)
    return found


LEFTOVERS: dict[str, Callable[[PretrainedConfig], dict[str, torch.Tensor]]] = {
    **dict.fromkeys(KINDS, _rotary_leftovers),
    "gpt2": _mask_leftovers,
}
"""Buffers that older versions of transformers saved."""


def _tokenizer(specials: list[str], words: list[str], pattern: str, **names: str):
    vocabulary = {word: i for i, word in enumerate([*specials, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    if "bos_token" in names and names["bos_token"] != names["eos_token"]:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 0)]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **names)
    return fast, len(vocabulary)


NUMBERS = [str(number) for number in range(100)]
ALONE = r"[0-9]{1,2}| ?[A-Za-z]+|[^\sA-Za-z0-9]|\s"


def llama_like() -> tuple[PreTrainedTokenizerFast, int]:
    """BOS in front by template; a blank alone stands in front of a number."""
    specials = ["<bos>", "<eos>", "<unk>"]
    return _tokenizer(specials, NUMBERS + WORDS, ALONE, bos_token="<bos>", eos_token="<eos>")


def gpt2_like() -> tuple[PreTrainedTokenizerFast, int]:
    """A BOS that is eos and never put in front; a number carries its blank."""
    words = [f" {number}" for number in NUMBERS] + NUMBERS[:10] + WORDS
    pattern = r" [0-9]{1,2}|[0-9]| ?[A-Za-z]+|[^\sA-Za-z0-9]|\s"
    end = "<|endoftext|>"
    return _tokenizer([end, "<unk>"], words, pattern, bos_token=end, eos_token=end)


def qwen_like() -> tuple[PreTrainedTokenizerFast, int]:
    """No BOS at all."""
    return _tokenizer(["<eos>", "<unk>"], NUMBERS + WORDS, ALONE, eos_token="<eos>")


TOKENIZERS = {"llama": llama_like, "gpt2": gpt2_like, "qwen2": qwen_like, "qwen3": qwen_like}
"""Kind -> its tokenizer, and V, the number of its ids."""
