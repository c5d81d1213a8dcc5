"""From trained weights to a checkpoint folder in the official layout.

An official CODI file holds a base model in bfloat16 and low-rank adapters in float32. Here, too, the linear weights on
disk are those of the base stage, rounded to bfloat16, and the adapters hold all that came after: the difference
`trained − base`, factorised exactly, without truncation to a low rank. So `base + alpha / r · B · A` is the
trained weight up to rounding, and whoever loads the file merges adapters that matter. Embeddings, norms
and projection are stored as they are. A Coconut file holds one state dict, in half precision.
"""

import copy
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from codi_lens.checkpoint.architectures import architecture_of
from codi_lens.checkpoint.config import CodiConfig
from codi_lens.checkpoint.write import write_checkpoint
from codi_lens.organisms.toy.train import Trained

LORA_ALPHA = 32.0


def factorise(
    delta: Float[Tensor, "out in"], rank: int, alpha: float
) -> tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]:
    """A and B with `alpha / rank · B @ A = delta`; rows beyond the rank of `delta` are zero."""
    if rank < min(delta.shape):
        raise ValueError(f"rank {rank} cannot hold every matrix of shape {tuple(delta.shape)}")
    u, s, v = torch.linalg.svd(delta.double(), full_matrices=False)
    root = (s * rank / alpha).sqrt()
    a = torch.zeros(rank, delta.shape[1])
    b = torch.zeros(delta.shape[0], rank)
    a[: len(s)] = (root[:, None] * v).float()
    b[:, : len(s)] = (u * root).float()
    return a, b


def split_adapters(
    model: PreTrainedModel,
    base: dict[str, Tensor],
    alpha: float = LORA_ALPHA,
    dtype: torch.dtype = torch.float32,
) -> tuple[PreTrainedModel, dict[str, tuple[Tensor, Tensor]]]:
    """The model with its linear weights put back to `base` (in bfloat16), and what they lack as adapters."""
    architecture = architecture_of(model.config.model_type)
    weights = {
        name.removesuffix(".weight"): parameter
        for name, parameter in model.named_parameters()
        if name.removesuffix(".weight").endswith(architecture.lora_targets)
    }
    rank = max(min(weight.shape) for weight in weights.values())
    stored = copy.deepcopy(model)
    adapters = {}
    for name, weight in weights.items():
        rounded = base[f"{name}.weight"].to(torch.bfloat16)
        delta = weight.detach() - rounded.float()
        a, b = factorise(delta.T if architecture.transposed else delta, rank, alpha)
        adapters[name] = a.to(dtype), b.to(dtype)
        stored.get_submodule(name).weight = nn.Parameter(rounded, requires_grad=False)
    return stored, adapters


def write_model(run: Trained, folder: Path) -> None:
    """Write weights, config and tokenizer of a finished run."""
    family, stored = run.family, run.model
    adapters: dict[str, tuple[Tensor, Tensor]] = {}
    if family.adapters is not None:
        stored, adapters = split_adapters(run.model, run.base, dtype=family.adapters)
    if family.weights is not None:
        stored = copy.deepcopy(stored).to(family.weights)  # type: ignore[arg-type]
    write_checkpoint(
        folder,
        base=stored,
        adapters=adapters,
        projection=None if family.layout.projection is None else run.projection,
        config=CodiConfig(
            lora_alpha=LORA_ALPHA if adapters else None,
            num_latents=run.recipe.size.n_latents,
            remove_eos=True if family.layout.eos_switch else None,
            answer_stem=family.answer_stem,
        ),
        tokenizer=run.tokenizer,
        file_format="safetensors" if family.filename is None else "bin",
        filename=family.filename,
        layout=family.layout,
    )
