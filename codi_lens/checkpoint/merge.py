"""Checkpoint -> merged base model + projection, every tensor accounted for.

The file holds a base model, its adapters if it has any, and the projection if there is one, under the names of a
layout. Loading is strict in both directions: every key of the file is claimed exactly
once, and every parameter of the model is filled exactly once. Whatever breaks this is an error that
names the key, since a checkpoint that loads in part is another model.

Adapters are merged by peft, one linear at a time and in float32 or better (files mix bfloat16 base
weights with float32 adapters), so that a whole second copy of the model never exists.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
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
from codi_lens.checkpoint.layouts import Layout
from codi_lens.checkpoint.load_report import LoadReport
from codi_lens.checkpoint.projection import load_projection
from codi_lens.checkpoint.tensor_files import CheckpointError, TensorFile
from codi_lens.memory import return_freed_memory


@dataclass
class MergedCheckpoint:
    """The model that a checkpoint stands for."""

    model: PreTrainedModel
    """The base model with its adapters merged in."""
    projection: nn.Sequential | None
    report: LoadReport


def load_checkpoint(
    file: TensorFile,
    layout: Layout,
    base: PretrainedConfig,
    config: CodiConfig,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> MergedCheckpoint:
    """Loads and merges the checkpoint in `file`.

    Args:
        file: the open weights.
        layout: of their keys.
        base: the base model's config; its `vocab_size` does not count `config.extra_tokens`.
        config: what the tensors cannot say, complete (`Layout.complete`).
        dtype: of the merged weights; the merge itself runs in float32 or better.
        device: where the merged weights go.

    Raises:
        CheckpointError: for anything missing, left over, mis-shaped, not finite, or in conflict.
    """
    architecture = architecture_of(base.model_type)
    claims = Claims(file, layout, dtype, device)
    model = _empty_model(claims, architecture, base, config)
    stems = {layout.key(name.rpartition(".")[0]) + "." for name in model.state_dict()}
    claims.drop(config.drop_prefixes, stems)
    parents = {layout.key(f"{name}.") for name, _ in model.named_modules() if name}
    claims.drop_leftovers(architecture.leftovers, parents)
    claims.report.lora_alpha = config.lora_alpha or 0.0
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
    claims.report.layout, claims.report.family = layout.name, layout.family
    claims.report.architecture = architecture.model_type
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
    adapters = (key for key in claims.unclaimed if ".lora_A" in key)
    return most_common(claims.size(key, 0) for key in adapters) or 0


def _empty_model(
    claims: Claims, architecture: Architecture, base: PretrainedConfig, config: CodiConfig
) -> PreTrainedModel:
    """The architecture without memory for its weights, with the vocabulary that the file has."""
    rows = embedding_rows(claims.file, claims.layout, architecture)
    extra = config.extra_tokens or ()
    if extra and rows != base.vocab_size + len(extra):
        raise CheckpointError(
            f"{claims.file.path}: the embedding has {rows} rows; expected {base.vocab_size} of the "
            f"base's 'vocab_size' + {len(extra)} ({', '.join(extra)}): is this the right base model?"
        )
    grown = type(base).from_dict(base.to_dict() | {"vocab_size": rows})
    with init_empty_weights():
        return architecture.model_class(grown)


def _model_weights(
    claims: Claims, architecture: Architecture, model: PreTrainedModel, config: CodiConfig
) -> Iterator[tuple[str, Tensor]]:
    """Yields every parameter of `model` by name, adapters merged."""
    layout = claims.layout
    keys = {
        architecture.embedding: [layout.key(architecture.embedding), *layout.embedding_names],
        architecture.head: [layout.key(architecture.head)],
    }
    if model.config.tie_word_embeddings:
        keys = {architecture.embedding: [key for names in keys.values() for key in names]}
    adapted: set[str] = set()
    for name, parameter in model.state_dict().items():
        shape = tuple(parameter.shape)
        module, _, leaf = name.rpartition(".")
        wrapped = layout.adapted_key(module, leaf)
        inside = wrapped != layout.key(name) and claims.has(wrapped)
        if name == architecture.head and name not in keys:
            continue
        if leaf == "weight" and (inside or _has_adapter(claims, module)):
            adapted.add(module)
            tensor = _merge(claims, architecture, module, shape, config)
            return_freed_memory()  # of the merge before, whose parts lie between tensors that stay
        elif inside:
            tensor = claims.take(wrapped, shape)
        else:
            tensor = _shared(claims, keys.get(name) or [layout.key(name)], shape)
        placed = claims.place(tensor, layout.key(name))
        yield name, placed
        if name == architecture.embedding and architecture.head not in keys:
            yield architecture.head, placed
    _check_targets(claims, architecture, model.config.num_hidden_layers, adapted, config)


def _shared(claims: Claims, keys: Sequence[str], shape: tuple[int, ...]) -> Tensor:
    """One tensor that a file may hold under several keys: any of them will do, all must be equal."""
    present = [key for key in keys if claims.has(key)] or keys[:1]
    tensors = [claims.take(key, shape) for key in present]
    for key, other in zip(present[1:], tensors[1:], strict=True):
        one = tensors[0]
        if one.is_meta or other.is_meta:
            continue
        if one.dtype != other.dtype or not torch.equal(one, other):
            claims.problems.append(
                f"keys {present[0]!r} and {key!r} differ; they are two names of one tensor (the config "
                "ties embedding and head, or the layout names the embedding twice), so they must be equal"
            )
    return tensors[0]


def _has_adapter(claims: Claims, module: str) -> bool:
    return any(claims.has(claims.layout.adapter_key(module, matrix)) for matrix in "AB")


def _merge(
    claims: Claims,
    architecture: Architecture,
    module: str,
    shape: tuple[int, ...],
    config: CodiConfig,
) -> Tensor:
    """W + (alpha / r) · B · A for one linear, by peft, in float32 or better."""
    layout, rank = claims.layout, claims.report.lora_rank
    weight = claims.take(layout.adapted_key(module, "weight"), shape)
    out_size, in_size = reversed(shape) if architecture.transposed else shape
    a = claims.take(layout.adapter_key(module, "A"), (rank, in_size))
    b = claims.take(layout.adapter_key(module, "B"), (out_size, rank))
    if config.lora_alpha is None:
        claims.problems.append(
            f"an adapter of {module!r} found; expected none (no lora_alpha given)"
        )
    if config.lora_alpha is None or any(t.is_meta for t in (weight, a, b)):
        return torch.empty(shape, device="meta")
    target = architecture.target(module)
    claims.report.merged[target] = claims.report.merged.get(target, 0) + 1
    weight = weight.to(torch.promote_types(claims.dtype, torch.float32))
    if architecture.transposed:
        return merge_adapter(weight.T, a, b, config.lora_alpha).T
    return merge_adapter(weight, a, b, config.lora_alpha)


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
    counts = Counter(map(architecture.target, adapted))
    if not counts and claims.layout.adapted:
        claims.problems.append("no LoRA adapter found; expected `….lora_A.default.weight` keys")
    for target, count in sorted(counts.items()):
        if count != layers:
            have = {
                module.removeprefix(architecture.layers).partition(".")[0]
                for module in adapted
                if architecture.target(module) == target
            }
            lacking = sorted(set(map(str, range(layers))) - have, key=int)
            claims.problems.append(
                f"target {target!r} has adapters in {count} layers; expected all {layers} "
                f"(none in layer {', '.join(lacking)})"
            )
    expected = config.lora_targets
    if expected is not None and not same_targets(counts, expected):
        claims.problems.append(f"adapters found for {sorted(counts)}; expected {sorted(expected)}")


def same_targets(found: Collection[str], expected: Collection[str]) -> bool:
    """Whether adapters are on just the modules that peft's `target_modules` name, by how they end."""

    def named(module: str, target: str) -> bool:
        return f".{module}".endswith(f".{target}")

    return all(any(named(m, t) for t in expected) for m in found) and all(
        any(named(m, t) for m in found) for t in expected
    )
