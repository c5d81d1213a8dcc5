"""Attention knockout (Geva et al., arXiv 2304.14767): what the positions of a step cannot attend to."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from codi_lens.model.hooks import Step


class Knockout(NamedTuple):
    """Scores from some steps to others set to −inf before the softmax, in some layers."""

    queries: tuple[Step, ...]
    """Steps that cannot attend: bot, latents, eot, answer."""
    keys: tuple[Step, ...]
    """Steps that they cannot attend to; "prompt" is the question, without bot."""
    layers: tuple[int, ...]


def hidden_keys(
    of_rows: Sequence[Sequence[Knockout]], steps: Sequence[Step], new: int, device: torch.device
) -> Mapping[int, Bool[Tensor, "rows new keys"]]:
    """Layer -> the keys that the new positions of each row cannot see, for layers in which there are some.

    Args:
        of_rows: what each row of the batch cannot attend to.
        steps: of every position so far, the last `new` of which are being added.
    """
    masks: dict[Knockout, Tensor] = {}
    hidden: dict[int, Tensor] = {}
    for row, knockouts in enumerate(of_rows):
        for knockout in knockouts:
            if knockout not in masks:
                asks = torch.tensor([step in knockout.queries for step in steps[-new:]])
                asked = torch.tensor([step in knockout.keys for step in steps])
                masks[knockout] = asks[:, None] & asked
            if masks[knockout].any():
                for layer in knockout.layers:
                    if layer not in hidden:
                        hidden[layer] = torch.zeros(len(of_rows), new, len(steps), dtype=torch.bool)
                    hidden[layer][row] |= masks[knockout]
    return {layer: mask.to(device) for layer, mask in hidden.items()}
