"""Tiny random CODI checkpoints in the official layout, and an independent reading of them."""

from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

from codi_lens.checkpoint.config import CodiConfig
from codi_lens.checkpoint.plain_cache import cached
from codi_lens.checkpoint.projection import make_projection
from codi_lens.checkpoint.write import write_checkpoint

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
WORDS = [
    "The",
    " answer",
    " is",
    ":",
    " ",
    *map(str, range(100)),
    "one",
    "two",
    " one",
    " two",
    " plus",
    "?",
]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Word level; numbers up to 99 are one token, longer ones fall into groups of two digits."""
    vocab = {word: i for i, word in enumerate(["<bos>", "<eos>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    pattern = r"[0-9]{1,2}| ?[A-Za-z]+|[^\sA-Za-z0-9]|\s"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def tiny_config(**overrides) -> CodiConfig:
    values = {
        "lora_alpha": 12.0,
        "num_latents": 3,
        "remove_eos": True,
        "answer_stem": "The answer is: ",
    }
    return CodiConfig(**(values | overrides))


def write_tiny(
    folder: Path,
    *,
    seed: int = 0,
    kv_heads: int = 2,
    tied: bool = True,
    n_ctx: int = 256,
    rope: dict | None = None,
    layers: int = 3,
    rank: int = 4,
    targets: tuple[str, ...] = TARGETS,
    projection_dim: int | None = 24,
    layer_norm: bool = True,
    config: CodiConfig | None = None,
    base_dtype: torch.dtype = torch.float32,
    llama_options: dict | None = None,
    spread: float = 0.3,
    tokenizer: PreTrainedTokenizerFast | None = None,
    **write_options,
) -> Path:
    """Writes a random checkpoint whose adapters, norms and projection all matter.

    A smaller `spread` makes a network that amplifies rounding less.
    """
    torch.manual_seed(seed)
    tokenizer = tokenizer or tiny_tokenizer()
    config = config or tiny_config()
    if config.bot_token:
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [config.bot_token, config.eot_token]}
        )
    extra = 0 if config.bot_token else 3
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer) + extra,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
            tie_word_embeddings=tied,
            rope_parameters=rope or {"rope_type": "default", "rope_theta": 10000.0},
            max_position_embeddings=n_ctx,
            **(llama_options or {}),
        )
    )
    for name, parameter in llama.named_parameters():
        mean, std = (1.0, 0.1) if "norm" in name else (0.0, spread)
        nn.init.normal_(parameter, mean=mean, std=std)
    adapters = {
        name: (
            torch.randn(rank, m.in_features) * spread / 1.5,
            torch.randn(m.out_features, rank) * spread / 1.5,
        )
        for name, m in llama.named_modules()
        if isinstance(m, nn.Linear) and name.endswith(targets)
    }
    projection = None
    if projection_dim is not None:
        projection = make_projection(32, projection_dim, layer_norm)
        for parameter in projection.parameters():
            nn.init.normal_(parameter, std=0.3)
    write_checkpoint(
        folder,
        base=llama.to(base_dtype),
        adapters=adapters,
        projection=projection,
        config=config,
        tokenizer=tokenizer,
        **write_options,
    )
    return folder


def exact_rms_norm(module: LlamaRMSNorm, x: torch.Tensor) -> torch.Tensor:
    """transformers casts to float32 inside; the oracle does not, so that float64 means float64."""
    return module.weight * x / (x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon).sqrt()


def exact_rotary(module: LlamaRotaryEmbedding, x, position_ids):
    """transformers' frequencies, with angles taken in float64."""
    dim = module.config.head_dim
    frequencies = module.inv_freq.double()
    if module.config.rope_parameters["rope_type"] == "default":
        base = module.config.rope_parameters["rope_theta"]
        frequencies = base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = position_ids[..., None].double() * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


class PlainCodi:
    """CODI by the paper, in plain transformers and peft: batch 1, HF's own cache, no mask, no hooks.

    Reads the weight file by itself, so that it shares nothing with the loader under test.
    """

    def __init__(self, folder: Path, tensors: dict[str, torch.Tensor], config: CodiConfig) -> None:
        self.config = config
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        base = LlamaConfig.from_pretrained(folder)
        self.extra = 0 if config.bot_token else 3
        base.vocab_size += self.extra
        targets = {k.split(".lora_A")[0].split(".")[-1] for k in tensors if ".lora_A." in k}
        rank = next(v.shape[0] for k, v in tensors.items() if ".lora_A." in k)
        lora = LoraConfig(r=rank, lora_alpha=config.lora_alpha, target_modules=sorted(targets))
        self.llama = get_peft_model(LlamaForCausalLM(base), lora).double()
        state = {
            k.removeprefix("codi."): v.double() for k, v in tensors.items() if k.startswith("codi.")
        }
        head, embedding = (
            "base_model.model.lm_head.weight",
            "base_model.model.model.embed_tokens.weight",
        )
        if base.tie_word_embeddings:
            state.setdefault(head, state.get(embedding))
            state.setdefault(embedding, state[head])
        self.llama.load_state_dict(state, strict=True)
        self.llama.eval()
        for module in self.llama.modules():
            if isinstance(module, LlamaRMSNorm):
                module.forward = partial(exact_rms_norm, module)
            if isinstance(module, LlamaRotaryEmbedding):
                module.forward = partial(exact_rotary, module)
        prj = {
            k.removeprefix("prj."): v.double() for k, v in tensors.items() if k.startswith("prj.")
        }
        self.prj = prj

    def project(self, h: torch.Tensor) -> torch.Tensor:
        if not self.prj:
            return h
        p = self.prj
        z = (
            torch.nn.functional.gelu(h @ p["1.weight"].T + p["1.bias"]) @ p["3.weight"].T
            + p["3.bias"]
        )
        if "ln.weight" in p:
            z = (z - z.mean(-1, keepdim=True)) / (
                z.var(-1, unbiased=False, keepdim=True) + 1e-5
            ).sqrt()
            z = z * p["ln.weight"] + p["ln.bias"]
        return z

    def ids(self) -> tuple[int, int, int]:
        if self.config.bot_token:
            bot, eot = self.tokenizer.convert_tokens_to_ids(
                [self.config.bot_token, self.config.eot_token]
            )
        else:
            bot, eot = len(self.tokenizer) + 1, len(self.tokenizer) + 2
        return bot, eot, self.tokenizer.eos_token_id

    @torch.no_grad()
    def run(
        self,
        question: str,
        answer_ids: list[int],
        num_latents: int,
        patch: tuple[int, int, torch.Tensor] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Latents, every layer's hidden state at every step, and the answer's logits.

        `patch` is (layer, latent step, value): the layer's output there is replaced, by a forward hook
        on the transformers module, and the loop goes on from it.
        """
        bot, eot, eos = self.ids()
        prompt = self.tokenizer(question)["input_ids"]
        prompt += [bot] if self.config.remove_eos else [eos, bot]
        hidden, thoughts, states = [], [], []

        past = DynamicCache()

        def call(**inputs):
            out = self.llama(**inputs, **cached(past), output_hidden_states=True)
            hidden.append(torch.stack(out.hidden_states)[:, 0])
            return out

        out = call(input_ids=torch.tensor([prompt]))
        states.append(out.hidden_states[-1][:, -1])
        thoughts.append(self.project(states[-1]))
        for step in range(num_latents):
            handle = None
            if patch is not None and patch[1] == step:
                layer = self.llama.get_base_model().model.layers[patch[0]]
                handle = layer.register_forward_hook(lambda *_: patch[2].view(1, 1, -1))
            out = call(inputs_embeds=thoughts[-1][:, None])
            if handle is not None:
                handle.remove()
            states.append(out.hidden_states[-1][:, -1])
            thoughts.append(self.project(states[-1]))
        own = (
            self.config.bot_token is not None
        )  # with tokens of its own, a model has no eos behind eot
        end = [eot] if self.config.remove_eos or own else [eot, eos]
        tail = torch.tensor([end + answer_ids])
        out = call(input_ids=tail)
        return {
            "thoughts": torch.cat(thoughts),
            "final_states": torch.cat(states),
            "hidden": torch.cat(hidden, dim=1),
            "logits": out.logits[0, len(end) - 1 :],
        }

    def greedy(self, question: str, num_latents: int, max_new_tokens: int) -> list[int]:
        """Greedy answer by running everything again for each token."""
        _, eot, eos = self.ids()
        answer: list[int] = []
        while len(answer) < max_new_tokens:
            logits = self.run(question, answer, num_latents)["logits"][-1]
            logits[eot] = -torch.inf
            token = int(logits.argmax())
            if token == eos:
                break
            answer.append(token)
        return answer
