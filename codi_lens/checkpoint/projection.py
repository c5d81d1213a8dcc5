"""CODI's projection: from the final state at one step to the thought that is fed at the next."""

import torch
from torch import nn

from codi_lens.checkpoint.claims import Claims, most_common
from codi_lens.checkpoint.config import CodiConfig

OFFICIAL_NAMES = ("1.weight", "1.bias", "3.weight", "3.bias", "ln.weight", "ln.bias")
"""The projection's weights in the official code, and in `make_projection`."""


def make_projection(d_model: int, projection_dim: int, layer_norm: bool = True) -> nn.Sequential:
    """The map of an official checkpoint: Dropout, Linear, GELU (exact), Linear, LayerNorm.

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


def load_projection(claims: Claims, d_model: int, config: CodiConfig) -> nn.Sequential | None:
    """The projection, its width and layer norm read from the keys; None if there is to be none."""
    prefix = claims.layout.projection
    if prefix is None:
        if config.has_projection:
            claims.problems.append(
                f"no projection found, and a file in {claims.layout.name}'s layout has none; expected one "
                "(has_projection is true)"
            )
        return None
    present = {key for key in claims.unclaimed if key.startswith(prefix)}
    if not config.has_projection:
        if present:
            claims.problems.append(f"{prefix}* keys found; expected none (has_projection is false)")
        return None
    keys = {name: claims.layout.projection_key(name, present) for name in OFFICIAL_NAMES}
    width = config.projection_dim or most_common(
        claims.size(keys[name], axis)
        for name, axis in (("1.weight", 0), ("1.bias", 0), ("3.weight", 1))
    )
    norm = config.projection_layer_norm
    if norm is None:
        norm = bool({keys["ln.weight"], keys["ln.bias"]} & present)
    with torch.device("meta"):
        projection = make_projection(d_model, width or d_model, norm)
    weights = {}
    for name, parameter in projection.state_dict().items():
        weights[name] = claims.place(claims.take(keys[name], tuple(parameter.shape)), keys[name])
    projection.load_state_dict(weights, strict=True, assign=True)
    projection.eval().requires_grad_(False)
    claims.report.projection_dim = width
    claims.report.projection_layer_norm = norm
    return projection
