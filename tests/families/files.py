"""A twin on the disk: its files, and how the oracle is to read them. Written and read with safetensors and torch alone."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from tests.families.bases import TARGETS

ALPHA, LATENTS, WIDTH = 12, 3, 24
NUMBER, SHARP = "The answer is: ", "### "
Tensors = dict[str, torch.Tensor]


@dataclass
class Twin:
    """A checkpoint on the disk, and how to read it."""

    source: Path
    """What `from_pretrained` is given."""
    options: dict[str, Any]
    files: list[Path]
    """All that hold tensors."""
    config: PretrainedConfig
    """Of the base model, extra rows included."""
    tokenizer: PreTrainedTokenizerFast
    begin: list[int]
    end: list[int]
    stem: str = NUMBER
    suffix: str = ""
    num_latents: int = LATENTS
    never: int | None = None
    """The token that greedy decoding leaves out."""
    wrapper: str = ""
    base: str = ""
    adapters: str | None = None
    """Prefix of the adapters' keys, if they are not wrapped around the base's own."""
    projection: str | None = None
    layer_norm: str = "ln"
    dropped: dict[str, int] = field(default_factory=dict)
    leftovers: dict[str, int] = field(default_factory=dict)
    replaced: int = 0
    """The base's tensors in whose place an adapter's file has others."""

    @property
    def bos(self) -> list[int]:
        return [0] if self.tokenizer.bos_token == "<bos>" else []

    def tensors(self) -> list[Tensors]:
        return [read(path) for path in self.files]


def read(path: Path) -> Tensors:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path)


def write(path: Path, tensors: Tensors) -> None:
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous().clone() for key, value in tensors.items()}, path)
    else:
        torch.save(tensors, path)


def settings(folder: Path, stem: str = NUMBER, num_latents: int = LATENTS, **more: Any) -> None:
    values = {"answer_stem": stem, "num_latents": num_latents, **more}
    (folder / "codi_config.json").write_text(json.dumps(values))


def base_parts(
    folder: Path, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast, rows: int
) -> Path:
    """config.json of the model before `rows` were added, and the tokenizer."""
    smaller = copy.deepcopy(config)
    smaller.vocab_size -= rows
    smaller.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def own(model: PreTrainedModel, *, once: bool = False) -> Tensors:
    """The state dict; `once`: a tied head is left out, as safetensors files do."""
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    if once and model.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    return state


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + key: value for key, value in tensors.items()}


def adapted(kind: str, model: PreTrainedModel) -> nn.Module:
    lora = LoraConfig(
        r=4, lora_alpha=ALPHA, target_modules=TARGETS[kind], fan_in_fan_out=kind == "gpt2"
    )
    wrapped = get_peft_model(model, lora)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2)
    return wrapped
