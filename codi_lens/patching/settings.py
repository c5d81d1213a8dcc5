"""What is patched, and how it is read: everything that a result depends on beside model and pairs."""

import math
from dataclasses import dataclass
from numbers import Real

from codi_lens.choices import (
    CONTROLS,
    DIRECTIONS,
    EFFECT_CHOICES,
    EFFECTS,
    SITES,
    Direction,
    EffectChoice,
    ResidSite,
)
from codi_lens.errors import UserError, one_of, whole_number

Label = int | str
THOUGHT = "thought"
"""Row of a map, below layer 0: the vector that is fed at the step."""


@dataclass(frozen=True)
class Settings:
    """The settings of a sweep, every one of them said.

    Raises:
        UserError: a value that is none of those known.
    """

    num_latents: int
    layers: tuple[Label, ...]
    """Layers, and "thought"."""
    positions: tuple[Label, ...]
    """Latent positions, and "bot" and "eot"."""
    site: ResidSite = "resid_post"
    effect: EffectChoice = "total"
    direction: Direction = "denoise"
    answer_start: str = "stem"
    """A readout (`patching.readout`). stem: the answer is read behind the forced stem; eot: everything is read
    at the last position before the stem."""
    min_gap: float = 1.0
    """In logits: pairs whose clean and corrupted runs are closer have no recovery."""
    controls: bool = False
    seed: int = 0

    @property
    def effects(self) -> tuple[str, ...]:
        """The effects of every cell, the main one first, then the controls."""
        chosen = EFFECTS if self.effect == EFFECT_CHOICES[-1] else (self.effect,)
        return chosen + (CONTROLS if self.controls else ())

    def __post_init__(self) -> None:
        for name, known in (
            ("site", SITES),
            ("effect", EFFECT_CHOICES),
            ("direction", DIRECTIONS),
        ):
            one_of(getattr(self, name), known, name)
        for name in ("num_latents", "seed"):
            object.__setattr__(self, name, whole_number(getattr(self, name), name))
        if not isinstance(self.controls, bool):
            raise UserError(f"controls is {self.controls!r}; it must be True or False")
        gap = self.min_gap
        if isinstance(gap, bool) or not isinstance(gap, Real) or not 0 <= gap < math.inf:
            raise UserError(f"min_gap is {gap!r}; it must be a number of logits, 0 or more")
        object.__setattr__(self, "min_gap", float(gap))
