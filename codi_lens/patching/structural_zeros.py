"""Cells that are zero by construction: what is patched there feeds nothing that is read."""

from collections.abc import Sequence

from codi_lens.choices import CONTROLS
from codi_lens.patching.plans import THOUGHT, Label, Settings


def is_structural_zero(
    settings: Settings,
    variant: str,
    layer: Label,
    steps: Sequence[Label],
    *,
    num_layers: int,
    empty_stem: bool,
) -> bool:
    """Whether patching `steps` of a layer together cannot have an effect, whatever the weights.

    The last layer's output at bot or at a latent feeds nothing but the next thought: the last one is never
    fed, under `freeze` none is. At eot it predicts the stem's first token, which is forced.
    """
    return all(
        _feeds_nothing(settings, variant, layer, step, num_layers, empty_stem) for step in steps
    )


def _feeds_nothing(
    settings: Settings, variant: str, layer: Label, step: Label, num_layers: int, empty_stem: bool
) -> bool:
    last_latent = settings.num_latents - 1
    if variant == "thoughts" and step in (last_latent, "eot"):
        return True
    if variant == "thoughts" and step == "bot" and settings.num_latents == 0:
        return True
    if layer == THOUGHT or (layer == 0 and settings.site == "resid_pre"):
        return step in ("bot", "eot")  # the input there is the same token in every run
    if layer != num_layers - 1 or settings.site == "resid_pre":
        return False
    if step == "eot":
        return settings.answer_start == "stem" and not empty_stem
    unread = step == last_latent or (step == "bot" and settings.num_latents == 0)
    return unread or variant == "freeze" or (variant in CONTROLS and settings.mode == "freeze")
