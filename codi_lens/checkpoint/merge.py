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
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from accelerate import init_empty_weights
from jaxtyping import Float
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from codi_lens.checkpoint.claims import Claims, most_common
from codi_lens.checkpoint.config import CodiConfig
from codi_lens.checkpoint.layouts.codi import EMBEDDING, EXTRA_TOKENS, HEAD, LLAMA_PREFIX
from codi_lens.checkpoint.load_report import LoadReport
from codi_lens.checkpoint.projection import load_projection, make_projection
from codi_lens.checkpoint.tensor_files import CheckpointError, TensorFile
from codi_lens.checkpoint.write import write_checkpoint

__all__ = [
    "EXTRA_TOKENS",
    "MergedCheckpoint",
    "embedding_rows",
    "load_checkpoint",
    "make_projection",
    "merge_adapter",
    "write_checkpoint",
]


@dataclass
class MergedCheckpoint:
    """The model that a checkpoint stands for."""

    llama: LlamaForCausalLM
    projection: nn.Sequential | None
    report: LoadReport


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
    claims.drop_leftovers()
    llama = _empty_llama(claims, llama_config, config)
    claims.report.lora_alpha = config.lora_alpha
    claims.report.lora_rank = config.lora_rank or _found_rank(claims)
    weights = dict(_llama_weights(claims, llama, config))
    projection = load_projection(claims, llama.config.hidden_size, config)
    claims.finish()

    llama.load_state_dict(weights, strict=True, assign=True)
    llama.tie_weights()
    llama.eval().requires_grad_(False)
    modules: list[nn.Module] = [llama] if projection is None else [llama, projection]
    parameters = [p for module in modules for p in module.parameters()]
    claims.report.parameters = sum(p.numel() for p in parameters)
    claims.report.weight_bytes = sum(p.nbytes for p in parameters)
    claims.report.vocabulary = llama.config.vocab_size
    claims.report.dtype = str(dtype).removeprefix("torch.")
    claims.report.device = str(llama.device)
    return MergedCheckpoint(llama, projection, claims.report)


def embedding_rows(file: TensorFile) -> int:
    """Rows of the token embedding, or of the head where only that is stored.

    Raises:
        CheckpointError: neither is there, under the names of a CODI LLaMA.
    """
    keys = file.keys()
    for key in (LLAMA_PREFIX + EMBEDDING, LLAMA_PREFIX + HEAD):
        if key in keys and file.shape(key):
            return file.shape(key)[0]
    found = ", ".join(map(repr, sorted(keys)[:3]))
    raise CheckpointError(
        f"{file.path}: key {LLAMA_PREFIX + EMBEDDING!r} is missing; found {len(keys)} keys such as "
        f"{found}; expected the tensors of a CODI LLaMA with its adapters, whose keys begin with "
        f"{LLAMA_PREFIX}"
    )


def _found_rank(claims: Claims) -> int:
    adapters = (key for key in claims.unclaimed if key.endswith(".lora_A.default.weight"))
    return most_common(claims.size(key, 0) for key in adapters) or 0


def _empty_llama(claims: Claims, base: LlamaConfig, config: CodiConfig) -> LlamaForCausalLM:
    """The architecture without memory for its weights, with the vocabulary that the file has."""
    rows = embedding_rows(claims.file)
    if config.bot_token is None and rows != base.vocab_size + EXTRA_TOKENS:
        raise CheckpointError(
            f"{claims.file.path}: the embedding has {rows} rows; expected {base.vocab_size} of the "
            f"base's 'vocab_size' + {EXTRA_TOKENS} (pad, bot, eot): is this the right base model?"
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
        key, base_key = LLAMA_PREFIX + name, f"{LLAMA_PREFIX}{module}.base_layer.{leaf}"
        if tied and name in (EMBEDDING, HEAD):
            continue
        if leaf == "weight" and (claims.has(base_key) or _has_adapter(claims, module)):
            adapted.add(module)
            tensor = _merge(claims, module, shape, config)
        else:
            tensor = claims.take(base_key if claims.has(base_key) else key, shape)
        yield name, claims.place(tensor, key)
    if tied:
        tensor = _tied_embedding(claims, tuple(llama.lm_head.weight.shape))
        shared = claims.place(tensor, LLAMA_PREFIX + EMBEDDING)
        yield from ((EMBEDDING, shared), (HEAD, shared))
    _check_targets(claims, llama, adapted, config)


def _tied_embedding(claims: Claims, shape: tuple[int, ...]) -> Tensor:
    """The one tensor behind embedding and head: either key will do, both must be equal."""
    keys = [LLAMA_PREFIX + EMBEDDING, LLAMA_PREFIX + HEAD]
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
    return any(claims.has(f"{LLAMA_PREFIX}{module}.lora_{x}.default.weight") for x in "AB")


def _merge(claims: Claims, module: str, shape: tuple[int, ...], config: CodiConfig) -> Tensor:
    """W + (alpha / r) · B · A for one linear [out, in], by peft, in float32 or better."""
    stem, rank = LLAMA_PREFIX + module, claims.report.lora_rank
    weight = claims.take(f"{stem}.base_layer.weight", shape)
    a = claims.take(f"{stem}.lora_A.default.weight", (rank, shape[1]))
    b = claims.take(f"{stem}.lora_B.default.weight", (shape[0], rank))
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
    claims: Claims, llama: LlamaForCausalLM, adapted: set[str], config: CodiConfig
) -> None:
    """Every layer must have the same adapters, and those that `config` expects."""
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
