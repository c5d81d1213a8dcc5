"""How much of a patch survives: the activation an iteration generated, against both unpatched runs."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from codi_lens.choices import Direction
from codi_lens.patching.metrics import Metric, register_metric

SIMILARITIES = tuple(
    register_metric(metric).name
    for metric in (
        Metric("similarity_to_clean", "cosine of the generated activation with the clean run's"),
        Metric(
            "similarity_to_corrupted", "cosine of the generated activation with the corrupted run's"
        ),
        Metric("bias", "cosine with clean − cosine with corrupted", signed=True),
        Metric("clean_corrupted_similarity", "cosine of the clean run's with the corrupted run's"),
        Metric("restored", "share of the displacement restored (0 nothing, 1 all)", signed=True),
    )
)


def similarities(
    generated: Float[Tensor, "effect row column d_model"],
    base: Float[Tensor, "layer position d_model"],
    source: Float[Tensor, "layer position d_model"],
    direction: Direction,
) -> dict[str, Float[Tensor, "effect row column"]]:
    """Similarities of what iteration i generated at position i + 1; NaN where it generated nothing.

    * similarity_to_clean, similarity_to_corrupted: cosine with the unpatched runs' activation there; bias:
      their difference (clean − corrupted).
    * clean_corrupted_similarity: cosine of those two. Residual vectors are alike anyway, so a high
      similarity to either means little where this is high.
    * restored: ⟨g − base, source − base⟩ / ‖source − base‖²: 0 nothing, 1 all of the displacement.
    """
    there = [torch.roll(run, -1, dims=1).expand_as(generated) for run in (base, source)]
    at_base, at_source = there
    clean, corrupted = (at_source, at_base) if direction == "denoise" else (at_base, at_source)
    to_clean = cosine_similarity(generated, clean, dim=-1)
    to_corrupted = cosine_similarity(generated, corrupted, dim=-1)
    displacement = at_source - at_base
    restored = ((generated - at_base) * displacement).sum(-1) / displacement.pow(2).sum(-1)
    alike = cosine_similarity(clean, corrupted, dim=-1).masked_fill(to_clean.isnan(), torch.nan)
    values = (to_clean, to_corrupted, to_clean - to_corrupted, alike, restored)
    return dict(zip(SIMILARITIES, values, strict=True))
