"""Writes a CODI model in one of the known layouts: for tests, trainers and conversions."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codi_lens.checkpoint.architectures import architecture_of
from codi_lens.checkpoint.config import CodiConfig
from codi_lens.checkpoint.layouts import CODI, Layout
from codi_lens.checkpoint.tensor_files import PICKLED, SAFETENSORS, SHARD_INDEX
from codi_lens.errors import UserError


def write_checkpoint(
    folder: Path,
    *,
    base: PreTrainedModel,
    adapters: Mapping[str, tuple[Tensor, Tensor]],
    projection: nn.Module | None,
    config: CodiConfig,
    tokenizer: PreTrainedTokenizerBase | None = None,
    extra: Mapping[str, Tensor] | None = None,
    file_format: Literal["safetensors", "bin"] = "safetensors",
    filename: str | None = None,
    max_shard_size: int | str | None = None,
    layout: Layout = CODI,
) -> None:
    """Writes a CODI model as a checkpoint that this package, or the layout's own code, can load.

    Args:
        folder: made if need be; receives weights, `config.json` (the base's), `codi_config.json` and
            the tokenizer's files.
        base: the model before adapters, its vocabulary already grown by pad, bot and eot. Every
            tensor is written in its own dtype.
        adapters: module name ("model.layers.0.self_attn.q_proj") -> (A [rank, in], B [out, rank]).
        projection: as `make_projection` builds it, or None.
        config: written as `codi_config.json`, completed by what the tensors have (rank, targets,
            projection), so that a file that is damaged later does not pass for another model.
        tokenizer: saved beside the weights when given.
        extra: further tensors, by whole key (such as an auxiliary decoder's).
        file_format: a tied head is written once in safetensors and twice in bin, as the hub has it.
        filename: of a bin; None: the usual one. Coconut's have a number and no suffix.
        max_shard_size: splits safetensors into shards with an index, e.g. "2GB"; None: one file.
        layout: how the keys are named; the official one if nothing is said.

    Raises:
        UserError: `folder` has weights in another format, or `config` denies the projection.
    """
    has_projection = layout.complete(config).has_projection
    if has_projection != (projection is not None):
        raise UserError(
            f"has_projection is {has_projection}; it must be {projection is not None}, as the "
            f"projection given is {'None' if projection is None else 'a module'}"
        )
    pickled = filename or PICKLED
    name = pickled if file_format == "bin" else SHARD_INDEX if max_shard_size else SAFETENSORS
    for other in {PICKLED, SHARD_INDEX, SAFETENSORS} - {name}:
        if (folder / other).exists():
            raise UserError(f"{folder}: holds {other} already; {name} beside it would be ambiguous")
    tied_twice = file_format == "bin"
    tensors = _keyed(layout, base, adapters, projection, tied_twice) | dict(extra or {})
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}

    folder.mkdir(parents=True, exist_ok=True)
    if file_format == "bin":
        torch.save(tensors, folder / pickled)
    elif max_shard_size:
        _save_shards(tensors, folder, max_shard_size)
    else:
        _save(tensors, folder / SAFETENSORS)
    extra_tokens = len(layout.complete(config).extra_tokens or ())
    base_config = base.config.to_dict() | {"vocab_size": base.config.vocab_size - extra_tokens}
    type(base.config).from_dict(base_config).save_pretrained(folder)
    _completed(config, adapters, projection).write(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _keyed(
    layout: Layout,
    base: PreTrainedModel,
    adapters: Mapping[str, tuple[Tensor, Tensor]],
    projection: nn.Module | None,
    tied_twice: bool,
) -> dict[str, Tensor]:
    """The state dict of the whole CODI module, under the names that peft gives."""
    architecture = architecture_of(base.config.model_type)
    tensors: dict[str, Tensor] = {}
    for name, tensor in base.state_dict().items():
        module, _, leaf = name.rpartition(".")
        if name == architecture.head and base.config.tie_word_embeddings:
            if not tied_twice:
                continue
            tensor = tensor.clone()  # torch.save would store a shared tensor once
        key = layout.adapted_key(module, leaf) if module in adapters else layout.key(name)
        tensors[key] = tensor
    for module, (a, b) in adapters.items():
        tensors[layout.adapter_key(module, "A")] = a
        tensors[layout.adapter_key(module, "B")] = b
    embedding = architecture.embedding
    tensors |= dict.fromkeys(layout.embedding_names, tensors[layout.key(embedding)])
    if projection is not None:
        tensors |= {layout.projection_key(k): v for k, v in projection.state_dict().items()}
    return tensors


def _save_shards(tensors: dict[str, Tensor], folder: Path, max_shard_size: int | str) -> None:
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)
    for name, keys in split.filename_to_tensors.items():
        _save({key: tensors[key] for key in keys}, folder / name)
    weight_map = {key: name for name, keys in split.filename_to_tensors.items() for key in keys}
    index = {"metadata": split.metadata, "weight_map": weight_map}
    (folder / SHARD_INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file(dict(tensors), path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors leaves the file readable to its owner alone


def _completed(
    config: CodiConfig,
    adapters: Mapping[str, tuple[Tensor, Tensor]],
    projection: nn.Module | None,
) -> CodiConfig:
    ranks = {a.shape[0] for a, _ in adapters.values()}
    targets = tuple(sorted({module.rpartition(".")[2] for module in adapters}))
    shapes = {} if projection is None else {k: v.shape for k, v in projection.state_dict().items()}
    return replace(
        config,
        lora_rank=ranks.pop() if len(ranks) == 1 else config.lora_rank,
        lora_targets=targets or None,
        projection_dim=shapes["1.weight"][0] if shapes else None,
        projection_layer_norm="ln.weight" in shapes if shapes else None,
    )
