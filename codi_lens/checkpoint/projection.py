"""CODI's projection: from the final state at one step to the thought that is fed at the next."""

import torch
from torch import nn

from codi_lens.checkpoint.claims import Claims, most_common
from codi_lens.checkpoint.config import CodiConfig
from codi_lens.checkpoint.layouts.codi import NORM_NAMES, PROJECTION_PREFIX


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
    present = any(key.startswith(PROJECTION_PREFIX) for key in claims.unclaimed)
    if not config.has_projection:
        if present:
            claims.problems.append("prj.* keys found; expected none (has_projection is false)")
        return None
    width = config.projection_dim or most_common(
        claims.size(PROJECTION_PREFIX + key, axis)
        for key, axis in (("1.weight", 0), ("1.bias", 0), ("3.weight", 1))
    )
    stored = (
        name
        for name in NORM_NAMES
        if any(claims.has(PROJECTION_PREFIX + name + leaf) for leaf in ("weight", "bias"))
    )
    norm_name = next(stored, None)
    norm = config.projection_layer_norm
    if norm is None:
        norm = norm_name is not None
    with torch.device("meta"):
        projection = make_projection(d_model, width or d_model, norm)
    weights = {}
    for name, parameter in projection.state_dict().items():
        key = PROJECTION_PREFIX + name.replace("ln.", norm_name or "ln.")
        weights[name] = claims.place(claims.take(key, tuple(parameter.shape)), key)
    projection.load_state_dict(weights, strict=True, assign=True)
    projection.eval().requires_grad_(False)
    claims.report.projection_dim = width
    claims.report.projection_layer_norm = norm
    return projection
