"""CODI checkpoint -> merged base model + projection, every tensor accounted for.

The file holds the state dict of a whole CODI module: a base model wrapped by peft (each adapted linear as
`base_layer`, `lora_A.default`, `lora_B.default`) and the projection, under the names of a layout. Loading is strict in both directions: every key of the file is claimed exactly
once, and every parameter of the model is filled exactly once. Whatever breaks this is an error that
names the key, since a checkpoint that loads in part is another model.

Adapters are merged by peft, one linear at a time and in float32 or better (files mix bfloat16 base
weights with float32 adapters), so that a whole second copy of the model never exists.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from accelerate import init_empty_weights
from jaxtyping import Float
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from codi_lens.checkpoint.architectures import Architecture, architecture_of
from codi_lens.checkpoint.claims import Claims, most_common
from codi_lens.checkpoint.config import CodiConfig
from codi_lens.checkpoint.layouts import Layout, layout_of
from codi_lens.checkpoint.load_report import LoadReport
from codi_lens.checkpoint.projection import load_projection
from codi_lens.checkpoint.tensor_files import CheckpointError, TensorFile


@dataclass
class MergedCheckpoint:
    """The model that a checkpoint stands for."""

    model: PreTrainedModel
    """The base model with its adapters merged in."""
    projection: nn.Sequential | None
    report: LoadReport


def load_checkpoint(
    file: TensorFile,
    base: PretrainedConfig,
    config: CodiConfig,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> MergedCheckpoint:
    """Loads and merges the checkpoint in `file`.

    Args:
        file: the open weights.
        base: the base model's config; its `vocab_size` does not count the layout's extra tokens (but does
            count the tokenizer's own, where `config.bot_token` names them).
        config: what the tensors cannot say.
        dtype: of the merged weights; the merge itself runs in float32 or better.
        device: where the merged weights go.

    Raises:
        CheckpointError: for anything missing, left over, mis-shaped, not finite, or in conflict.
    """
    architecture = architecture_of(base.model_type)
    claims = Claims(file, layout_of(file), dtype, device)
    for prefix in config.drop_prefixes:
        claims.drop(prefix)
    claims.drop_leftovers()
    model = _empty_model(claims, architecture, base, config)
    claims.report.lora_alpha = config.lora_alpha
    claims.report.lora_rank = config.lora_rank or _found_rank(claims)
    weights = dict(_model_weights(claims, architecture, model, config))
    projection = load_projection(claims, model.config.hidden_size, config)
    claims.finish()

    model.load_state_dict(weights, strict=True, assign=True)
    model.tie_weights()
    model.eval().requires_grad_(False)
    modules: list[nn.Module] = [model] if projection is None else [model, projection]
    parameters = [p for module in modules for p in module.parameters()]
    claims.report.parameters = sum(p.numel() for p in parameters)
    claims.report.weight_bytes = sum(p.nbytes for p in parameters)
    claims.report.vocabulary = model.config.vocab_size
    claims.report.dtype = str(dtype).removeprefix("torch.")
    claims.report.device = str(model.device)
    return MergedCheckpoint(model, projection, claims.report)


def embedding_rows(file: TensorFile, layout: Layout, architecture: Architecture) -> int:
    """Rows of the token embedding, or of the head where only that is stored.

    Raises:
        CheckpointError: neither is there.
    """
    keys = [layout.key(name) for name in (architecture.embedding, architecture.head)]
    for key in keys:
        if key in file.keys() and file.shape(key):  # noqa: SIM118 - a file is no mapping
            return file.shape(key)[0]
    raise CheckpointError(
        f"{file.path}: key {keys[0]!r} is missing, and so is {keys[1]!r}; expected one of them in a "
        f"{architecture.model_type!r} model in {layout.name}'s layout"
    )


def _found_rank(claims: Claims) -> int:
    ending = claims.layout.adapter_key("", "A").removeprefix(claims.layout.base)
    adapters = (key for key in claims.unclaimed if key.endswith(ending))
    return most_common(claims.size(key, 0) for key in adapters) or 0


def _empty_model(
    claims: Claims, architecture: Architecture, base: PretrainedConfig, config: CodiConfig
) -> PreTrainedModel:
    """The architecture without memory for its weights, with the vocabulary that the file has."""
    rows = embedding_rows(claims.file, claims.layout, architecture)
    extra = claims.layout.extra_tokens
    if config.bot_token is None and rows != base.vocab_size + extra:
        raise CheckpointError(
            f"{claims.file.path}: the embedding has {rows} rows; expected {base.vocab_size} of the "
            f"base's 'vocab_size' + {extra} (pad, bot, eot): is this the right base model?"
        )
    grown = type(base).from_dict(base.to_dict() | {"vocab_size": rows})
    with init_empty_weights():
        return architecture.model_class(grown)


def _model_weights(
    claims: Claims, architecture: Architecture, model: PreTrainedModel, config: CodiConfig
) -> Iterator[tuple[str, Tensor]]:
    """Yields every parameter of `model` by name, adapters merged."""
    layout = claims.layout
    ends = (architecture.embedding, architecture.head)
    tied = model.config.tie_word_embeddings
    adapted: set[str] = set()
    for name, parameter in model.state_dict().items():
        shape = tuple(parameter.shape)
        module, _, leaf = name.rpartition(".")
        key, base_key = layout.key(name), layout.adapted_key(module, leaf)
        if tied and name in ends:
            continue
        if leaf == "weight" and (claims.has(base_key) or _has_adapter(claims, module)):
            adapted.add(module)
            tensor = _merge(claims, module, shape, config)
        else:
            tensor = claims.take(base_key if claims.has(base_key) else key, shape)
        yield name, claims.place(tensor, key)
    if tied:
        keys = [layout.key(name) for name in ends]
        tensor = _tied_embedding(claims, keys, tuple(model.state_dict()[ends[0]].shape))
        shared = claims.place(tensor, keys[0])
        yield from ((name, shared) for name in ends)
    _check_targets(claims, architecture, model.config.num_hidden_layers, adapted, config)


def _tied_embedding(claims: Claims, keys: list[str], shape: tuple[int, ...]) -> Tensor:
    """The one tensor behind embedding and head: either key will do, both must be equal."""
    present = [key for key in keys if claims.has(key)] or keys[:1]
    tensors = [claims.take(key, shape) for key in present]
    if len(tensors) == 2 and not any(t.is_meta for t in tensors):
        one, other = tensors
        if one.dtype != other.dtype or not torch.equal(one, other):
            claims.problems.append(
                f"keys {keys[0]!r} and {keys[1]!r} differ; the config ties them "
                "(tie_word_embeddings), so they must be equal"
            )
    return tensors[0]


def _has_adapter(claims: Claims, module: str) -> bool:
    return any(claims.has(claims.layout.adapter_key(module, matrix)) for matrix in "AB")


def _merge(claims: Claims, module: str, shape: tuple[int, ...], config: CodiConfig) -> Tensor:
    """W + (alpha / r) · B · A for one linear [out, in], by peft, in float32 or better."""
    layout, rank = claims.layout, claims.report.lora_rank
    weight = claims.take(layout.adapted_key(module, "weight"), shape)
    a = claims.take(layout.adapter_key(module, "A"), (rank, shape[1]))
    b = claims.take(layout.adapter_key(module, "B"), (shape[0], rank))
    if any(t.is_meta for t in (weight, a, b)):
        return torch.empty(shape, device="meta")
    target = module.rpartition(".")[2]
    claims.report.merged[target] = claims.report.merged.get(target, 0) + 1
    precision = torch.promote_types(claims.dtype, torch.float32)
    return merge_adapter(weight.to(precision), a, b, config.lora_alpha)


def merge_adapter(
    weight: Float[Tensor, "out in"],
    a: Float[Tensor, "rank in"],
    b: Float[Tensor, "out rank"],
    alpha: float,
) -> Float[Tensor, "out in"]:
    """W + (alpha / rank) · B · A, computed by peft in the dtype of `weight`; writes to no argument."""
    with torch.device("meta"):
        holder = nn.ModuleDict({"linear": nn.Linear(weight.shape[1], weight.shape[0], bias=False)})
    lora = LoraConfig(r=a.shape[0], lora_alpha=alpha, target_modules=["linear"])  # type: ignore[arg-type]
    inject_adapter_in_model(lora, holder, low_cpu_mem_usage=True)
    tensors = {
        "linear.base_layer.weight": weight.clone(),
        "linear.lora_A.default.weight": a.to(weight.dtype),
        "linear.lora_B.default.weight": b.to(weight.dtype),
    }
    holder.load_state_dict(tensors, strict=True, assign=True)
    adapted = holder["linear"]
    adapted.merge()  # type: ignore[operator]
    return adapted.get_base_layer().weight.detach()  # type: ignore[operator, no-any-return]


def _check_targets(
    claims: Claims, architecture: Architecture, layers: int, adapted: set[str], config: CodiConfig
) -> None:
    """Every layer must have the same adapters, and those that `config` expects."""
    counts = Counter(module.rpartition(".")[2] for module in adapted)
    if not counts:
        claims.problems.append("no LoRA adapter found; expected `….lora_A.default.weight` keys")
    for target, count in sorted(counts.items()):
        if count != layers:
            have = {
                module.removeprefix(architecture.layers).partition(".")[0]
                for module in adapted
                if module.endswith("." + target)
            }
            lacking = sorted(set(map(str, range(layers))) - have, key=int)
            claims.problems.append(
                f"target {target!r} has adapters in {count} layers; expected all {layers} "
                f"(none in layer {', '.join(lacking)})"
            )
    if config.lora_targets is not None and set(config.lora_targets) != set(counts):
        claims.problems.append(
            f"adapters found for {sorted(counts)}; expected {sorted(config.lora_targets)}"
        )
