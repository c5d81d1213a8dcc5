"""From trained weights to a checkpoint folder in the official CODI layout.

An official file holds a LLaMA in bfloat16 and low-rank adapters in float32. Here, too, the linear weights on
disk are those of the base stage, rounded to bfloat16, and the adapters hold all that came after: the difference
`trained − base`, factorised exactly, without truncation to a low rank. So `base + alpha / r · B · A` is the
trained weight up to float32 rounding, and whoever loads the file merges adapters that matter. Embeddings, norms
and projection are stored as they are.
"""

import copy
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from codi_lens.checkpoint.architectures import LLAMA
from codi_lens.checkpoint.config import CodiConfig
from codi_lens.checkpoint.write import write_checkpoint
from codi_lens.organisms.toy.tokenizer import ANSWER_STEM
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
    model: LlamaForCausalLM, base: dict[str, Tensor], alpha: float = LORA_ALPHA
) -> tuple[LlamaForCausalLM, dict[str, tuple[Tensor, Tensor]]]:
    """The model with its linear weights put back to `base` (in bfloat16), and what they lack as adapters."""
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(LLAMA.lora_targets)
    }
    rank = max(min(module.weight.shape) for module in linears.values())
    stored = copy.deepcopy(model)
    adapters = {}
    for name, module in linears.items():
        rounded = base[f"{name}.weight"].to(torch.bfloat16)
        adapters[name] = factorise(module.weight.detach() - rounded.float(), rank, alpha)
        stored.get_submodule(name).weight = nn.Parameter(rounded, requires_grad=False)
    return stored, adapters


def write_model(run: Trained, folder: Path) -> None:
    """Write weights, config and tokenizer of a finished run."""
    stored, adapters = split_adapters(run.model, run.base)
    write_checkpoint(
        folder,
        base=stored,
        adapters=adapters,
        projection=run.projection,
        config=CodiConfig(
            lora_alpha=LORA_ALPHA,
            num_latents=run.recipe.size.n_latents,
            remove_eos=True,
            answer_stem=ANSWER_STEM,
        ),
        tokenizer=run.tokenizer,
    )
