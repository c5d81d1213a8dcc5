"""Layers in windows: all of them together, and a few at a time."""

from codi_lens.errors import UserError
from codi_lens.patching.settings import Settings

ALL_LAYERS = "all layers"


def windows(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Name -> layers: all layers that the settings choose, and windows of `settings.window` of them.

    Raises:
        UserError: rows that are no layers.
    """
    chosen: list[int] = []
    for label in settings.layers:
        if not isinstance(label, int):
            raise UserError(
                f"layers {list(settings.layers)}: whole layers are exchanged here; give numbers"
            )
        chosen.append(label)
    found = {ALL_LAYERS: tuple(chosen)}
    for start in range(0, len(chosen), settings.window) if settings.window else ():
        part = chosen[start : start + settings.window]
        name = f"layer {part[0]}" if len(part) == 1 else f"layers {part[0]}-{part[-1]}"
        found[name] = tuple(part)
    return found


def latents_of(settings: Settings) -> tuple[int, ...]:
    """The positions, all of which must be latents.

    Raises:
        UserError: bot or eot.
    """
    latents = tuple(step for step in settings.positions if isinstance(step, int))
    if len(latents) < len(settings.positions):
        raise UserError(
            f"positions {list(settings.positions)}: give latents here, without bot and eot"
        )
    return latents
