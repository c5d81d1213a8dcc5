"""What all organisms are made of: a small CODI LLaMA, and a tokenizer with one token a number."""

import random
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from codi_lens.checkpoint.layouts.codi import CODI_MERGED
from codi_lens.organisms.planted.mechanism import MECHANISMS, Mechanism
from codi_lens.organisms.planted.task import WORDINGS
from codi_lens.organisms.toy.family import FAMILIES, Family, Size
from codi_lens.organisms.toy.tokenizer import llama_tokenizer, words_of
from codi_lens.patching.interventions import InSubspace

STEM = "= "
"""In front of the answer."""


def build_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of all tasks; the same on every call."""
    rng = random.Random(0)
    texts = [f"{STEM}0"]
    for mechanism in MECHANISMS.values():
        task = mechanism.task
        for wording in WORDINGS:
            # Every operation occurs among so many.
            texts += [task.text(*task.draw(rng), wording) for _ in range(64)]
    return llama_tokenizer(words_of(texts), n_numbers=10)


FAMILY = Family(
    CODI_MERGED,
    FAMILIES["toy"].make_base,
    build_tokenizer,
    STEM,
    "CODI LLaMA",
    weights=torch.float16,
    adapters=None,
)


def size_of(mechanism: Mechanism) -> Size:
    """The shape of an organism."""
    return Size(
        n_layers=mechanism.n_layers,
        d_model=64,
        d_mlp=256,
        n_heads=4,
        n_kv_heads=2,
        d_projection=128,
        n_latents=mechanism.num_latents,
    )


@dataclass(frozen=True)
class Subspaces:
    """Two orthogonal halves of a thought: the columns of one random rotation."""

    bases: Float[Tensor, "half d_model d_half"]

    @classmethod
    def drawn(cls, d_model: int, seed: int) -> "Subspaces":
        """A rotation drawn at random, from its seed alone."""
        generator = torch.Generator().manual_seed(seed)
        square = torch.randn(d_model, d_model, generator=generator, dtype=torch.float64)
        rotation = torch.linalg.qr(square)[0].float()
        return cls(torch.stack(rotation.chunk(2, dim=1)))

    def exchanged(
        self, own: Float[Tensor, "batch d_model"], other: Float[Tensor, "batch d_model"], half: int
    ) -> Float[Tensor, "batch d_model"]:
        """`own` with what lies in one half taken from `other`."""
        return InSubspace.exchanged(own, other, self.bases[half])
