"""Official CODI checkpoint -> merged `LlamaForCausalLM` + projection, every tensor accounted for.

The file holds the state dict of the whole CODI module: a LLaMA wrapped by peft
(`codi.base_model.model.…`, each adapted linear as `base_layer`, `lora_A.default`, `lora_B.default`) and
the projection (`prj.…`). Loading is strict in both directions: every key of the file is claimed exactly
once, and every parameter of the model is filled exactly once. Whatever breaks this is an error that
names the key, since a checkpoint that loads in part is another model.

Adapters are merged by peft, one linear at a time and in float32 or better (files mix bfloat16 base
weights with float32 adapters), so that a whole second copy of the model never exists.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import init_empty_weights
from jaxtyping import Float
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from codi_lens.claims import LLAMA_PREFIX, PROJECTION_PREFIX, Claims, LoadReport
from codi_lens.config import CodiConfig
from codi_lens.tensor_files import PICKLED, SAFETENSORS, CheckpointError, TensorFile

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
EXTRA_TOKENS = 3
"""pad, bot and eot, added behind the base vocabulary where the tokenizer has no tokens of its own."""


@dataclass
class MergedCheckpoint:
    """The model that a checkpoint stands for."""

    llama: LlamaForCausalLM
    projection: nn.Sequential | None
    report: LoadReport


def make_projection(d_model: int, projection_dim: int, layer_norm: bool = True) -> nn.Sequential:
    """CODI's map from a final state to the next thought: Dropout, Linear, GELU, Linear, LayerNorm.

    Shapes: [..., d_model] -> [..., d_model]. The names (`1`, `3`, `ln`) are those of official files.
    """
    projection = nn.Sequential(
        nn.Dropout(0.0),
        nn.Linear(d_model, projection_dim),
        nn.GELU(),
        nn.Linear(projection_dim, d_model),
    )
    if layer_norm:
        projection.add_module("ln", nn.LayerNorm(d_model))
    return projection


def load_checkpoint(
    file: TensorFile,
    llama_config: LlamaConfig,
    config: CodiConfig,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> MergedCheckpoint:
    """Loads and merges the checkpoint in `file`.

    Args:
        file: the open weights.
        llama_config: the base model's config; its `vocab_size` is that of the base, without CODI's
            three extra tokens (or with the tokenizer's own, where `config.bot_token` names them).
        config: what the tensors cannot say.
        dtype: of the merged weights; the merge itself runs in float32 or better.
        device: where the merged weights go.

    Raises:
        CheckpointError: for anything missing, left over, mis-shaped, not finite, or in conflict.
    """
    claims = Claims(file, dtype, device)
    for prefix in config.drop_prefixes:
        claims.drop(prefix)
    llama = _empty_llama(claims, llama_config, config)
    weights = dict(_llama_weights(claims, llama, config))
    projection = _load_projection(claims, llama.config.hidden_size, config)
    claims.finish()

    llama.load_state_dict(weights, strict=True, assign=True)
    llama.tie_weights()
    llama.eval().requires_grad_(False)
    modules: list[nn.Module] = [llama] if projection is None else [llama, projection]
    claims.report.parameters = sum(p.numel() for m in modules for p in m.parameters())
    return MergedCheckpoint(llama, projection, claims.report)


def _empty_llama(claims: Claims, base: LlamaConfig, config: CodiConfig) -> LlamaForCausalLM:
    """The architecture without memory for its weights, with the vocabulary that the file has."""
    rows = base.vocab_size
    for key in (LLAMA_PREFIX + EMBEDDING, LLAMA_PREFIX + HEAD):
        if claims.has(key):
            rows = claims.file.shape(key)[0]
            break
    if config.bot_token is None and rows != base.vocab_size + EXTRA_TOKENS:
        raise CheckpointError(
            f"{claims.file.path}: the embedding has {rows} rows; expected {base.vocab_size} of the "
            f"base vocabulary + {EXTRA_TOKENS} (pad, bot, eot): is this the right base model?"
        )
    llama_config = LlamaConfig.from_dict(base.to_dict() | {"vocab_size": rows})
    with init_empty_weights():
        return LlamaForCausalLM(llama_config)


def _llama_weights(
    claims: Claims, llama: LlamaForCausalLM, config: CodiConfig
) -> Iterator[tuple[str, Tensor]]:
    """Yields every parameter of `llama` by name, adapters merged."""
    tied = llama.config.tie_word_embeddings
    adapted: set[str] = set()
    for name, parameter in llama.state_dict().items():
        shape = tuple(parameter.shape)
        module, _, leaf = name.rpartition(".")
        base_key = f"{LLAMA_PREFIX}{module}.base_layer.{leaf}"
        if tied and name in (EMBEDDING, HEAD):
            continue
        if leaf == "weight" and claims.has(base_key):
            adapted.add(module)
            yield name, claims.place(_merge(claims, module, shape, config))
        elif leaf == "bias" and claims.has(base_key):
            yield name, claims.place(claims.take(base_key, shape))
        else:
            yield name, claims.place(claims.take(LLAMA_PREFIX + name, shape))
    if tied:
        shared = claims.place(_tied_embedding(claims, tuple(llama.lm_head.weight.shape)))
        yield from ((EMBEDDING, shared), (HEAD, shared))
    _check_targets(claims, llama, adapted, config)


def _tied_embedding(claims: Claims, shape: tuple[int, ...]) -> Tensor:
    """The one tensor behind embedding and head: either key will do, both must be equal."""
    keys = [LLAMA_PREFIX + EMBEDDING, LLAMA_PREFIX + HEAD]
    present = [key for key in keys if claims.has(key)] or keys[:1]
    tensors = [claims.take(key, shape) for key in present]
    if len(tensors) == 2 and not any(t.is_meta for t in tensors) and not torch.equal(*tensors):
        claims.problems.append(
            f"keys {keys[0]!r} and {keys[1]!r} differ; the config ties them "
            "(tie_word_embeddings), so they must be equal"
        )
    return tensors[0]


def _merge(claims: Claims, module: str, shape: tuple[int, ...], config: CodiConfig) -> Tensor:
    """W + (alpha / r) · B · A for one linear [out, in], by peft, in float32 or better."""
    stem = LLAMA_PREFIX + module
    key_a, key_b = f"{stem}.lora_A.default.weight", f"{stem}.lora_B.default.weight"
    rank = claims.file.shape(key_a)[0] if claims.has(key_a) else claims.report.lora_rank
    if claims.report.lora_rank not in (0, rank):
        claims.problems.append(
            f"key {key_a!r} has rank {rank}; expected {claims.report.lora_rank}, as the other adapters"
        )
    claims.report.lora_rank = claims.report.lora_rank or rank
    weight = claims.take(f"{stem}.base_layer.weight", shape)
    a = claims.take(key_a, (rank, shape[1]))
    b = claims.take(key_b, (shape[0], rank))
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
    return adapted.get_base_layer().weight.detach()  # type: ignore[operator, no-any-return, union-attr]


def _check_targets(
    claims: Claims, llama: LlamaForCausalLM, adapted: set[str], config: CodiConfig
) -> None:
    """Every layer must have the same adapters, and those that `config` expects."""
    report = claims.report
    report.lora_alpha = config.lora_alpha
    counts = Counter(module.rpartition(".")[2] for module in adapted)
    layers = llama.config.num_hidden_layers
    if not counts:
        claims.problems.append("no LoRA adapter found; expected `….lora_A.default.weight` keys")
    for target, count in sorted(counts.items()):
        if count != layers:
            have = {module.split(".")[2] for module in adapted if module.endswith("." + target)}
            lacking = sorted(set(map(str, range(layers))) - have, key=int)
            claims.problems.append(
                f"target {target!r} has adapters in {count} layers; expected all {layers} "
                f"(none in layer {', '.join(lacking)})"
            )
    if config.lora_targets is not None and set(config.lora_targets) != set(counts):
        claims.problems.append(
            f"adapters found for {sorted(counts)}; expected {sorted(config.lora_targets)}"
        )
    if config.lora_rank is not None and config.lora_rank != report.lora_rank:
        claims.problems.append(f"LoRA rank is {report.lora_rank}; expected {config.lora_rank}")


def _load_projection(claims: Claims, d_model: int, config: CodiConfig) -> nn.Sequential | None:
    """The projection, its width and layer norm read from the keys; None if there is to be none."""
    present = any(key.startswith(PROJECTION_PREFIX) for key in claims.unclaimed)
    if not config.has_projection and not present:
        return None
    if not config.has_projection:
        claims.problems.append("prj.* keys found; expected none (has_projection is false)")
        return None
    key = PROJECTION_PREFIX + "1.weight"
    width = claims.file.shape(key)[0] if claims.has(key) else config.projection_dim or d_model
    layer_norm = any(claims.has(f"{PROJECTION_PREFIX}ln.{leaf}") for leaf in ("weight", "bias"))
    expected = {"projection_dim": width, "projection_layer_norm": layer_norm}
    for name, found in expected.items():
        asked = getattr(config, name)
        if asked is not None and asked != found:
            claims.problems.append(f"the prj.* keys give {name} {found}; expected {asked}")
        setattr(claims.report, name, found)
    with torch.device("meta"):
        projection = make_projection(d_model, width, layer_norm)
    weights = {
        name: claims.place(claims.take(PROJECTION_PREFIX + name, tuple(parameter.shape)))
        for name, parameter in projection.state_dict().items()
    }
    projection.load_state_dict(weights, strict=True, assign=True)
    projection.eval().requires_grad_(False)
    return projection


def write_checkpoint(
    folder: Path,
    *,
    base: LlamaForCausalLM,
    adapters: Mapping[str, tuple[Tensor, Tensor]],
    projection: nn.Module | None,
    config: CodiConfig,
    tokenizer: PreTrainedTokenizerBase | None = None,
    extra: Mapping[str, Tensor] | None = None,
    file_format: Literal["safetensors", "bin"] = "safetensors",
) -> None:
    """Writes a CODI model in the layout of the official checkpoints.

    Args:
        folder: made if need be; receives weights, `config.json` (the base's), `codi_config.json` and
            the tokenizer's files.
        base: the model before adapters, its vocabulary already grown by pad, bot and eot.
        adapters: module name ("model.layers.0.self_attn.q_proj") -> (A [rank, in], B [out, rank]).
        projection: as `make_projection` builds it, or None.
        config: written as `codi_config.json`.
        tokenizer: saved beside the weights when given.
        extra: further tensors, by whole key (such as an auxiliary decoder's).
        file_format: a tied head is written once in safetensors and twice in bin, as the hub has it.
    """
    tensors: dict[str, Tensor] = {}
    tied = base.config.tie_word_embeddings
    for name, tensor in base.state_dict().items():
        module, _, leaf = name.rpartition(".")
        if name == HEAD and tied and file_format == "safetensors":
            continue
        key = f"{module}.base_layer.{leaf}" if module in adapters else name
        tensors[LLAMA_PREFIX + key] = tensor
    for module, (a, b) in adapters.items():
        tensors[f"{LLAMA_PREFIX}{module}.lora_A.default.weight"] = a
        tensors[f"{LLAMA_PREFIX}{module}.lora_B.default.weight"] = b
    if projection is not None:
        tensors |= {PROJECTION_PREFIX + k: v for k, v in projection.state_dict().items()}
    tensors |= extra or {}
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}

    folder.mkdir(parents=True, exist_ok=True)
    if file_format == "safetensors":
        save_file(tensors, folder / SAFETENSORS, metadata={"format": "pt"})
    else:
        torch.save(tensors, folder / PICKLED)
    extra_tokens = 0 if config.bot_token else EXTRA_TOKENS
    base_config = base.config.to_dict() | {"vocab_size": base.config.vocab_size - extra_tokens}
    LlamaConfig.from_dict(base_config).save_pretrained(folder)
    config.write(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
