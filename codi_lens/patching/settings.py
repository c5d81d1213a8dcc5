"""What is patched, and how it is read: everything that a result depends on beside model and pairs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

from codi_lens.choices import (
    CONTROLS,
    DIRECTIONS,
    EFFECT_CHOICES,
    EFFECTS,
    ROUTE_VALUES,
    Direction,
    EffectChoice,
    RouteValues,
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
    """Rows: layers, and places in them; see `patching.places`."""
    positions: tuple[Label, ...]
    """Latent positions, and "bot" and "eot"."""
    site: str = "resid_post"
    effect: EffectChoice = "total"
    direction: Direction = "denoise"
    answer_start: str = "stem"
    """A readout (`patching.readout`). stem: the answer is read behind the forced stem; eot: everything is read
    at the last position before the stem."""
    min_gap: float = 1.0
    """In logits: pairs whose clean and corrupted runs are closer have no recovery."""
    controls: bool = False
    seed: int = 0
    intervention: str = "source"
    """What is put in (`patching.replacements`)."""
    strength: float = 1.0
    """Steering: how much of the vector is added."""
    starts: tuple[Label, ...] = ()
    """Iterative patching: positions at which chains start; (): the first."""
    senders: tuple[str, ...] = ()
    """Path patching: places with their steps, such as "2.1@3"; so are the receivers."""
    receivers: tuple[str, ...] = ()
    window: int = 0
    """Routes, knockout: layers in a window, each window a row of its own; 0: all layers together alone."""
    values: RouteValues = "source"
    """Routes: whose activations are exchanged; see `experiments.routes`."""

    @property
    def effects(self) -> tuple[str, ...]:
        """The effects of every cell, the main one first, then the controls."""
        chosen = EFFECTS if self.effect == EFFECT_CHOICES[-1] else (self.effect,)
        return chosen + (CONTROLS if self.controls else ())

    def __post_init__(self) -> None:
        for name, known in (
            ("effect", EFFECT_CHOICES),
            ("direction", DIRECTIONS),
            ("values", ROUTE_VALUES),
        ):
            one_of(getattr(self, name), known, name)
        for name in ("num_latents", "seed", "window"):
            object.__setattr__(self, name, whole_number(getattr(self, name), name))
        if not isinstance(self.controls, bool):
            raise UserError(f"controls is {self.controls!r}; it must be True or False")
        gap = self.min_gap
        if isinstance(gap, bool) or not isinstance(gap, Real) or not 0 <= gap < math.inf:
            raise UserError(f"min_gap is {gap!r}; it must be a number of logits, 0 or more")
        object.__setattr__(self, "min_gap", float(gap))
        if (
            isinstance(self.strength, bool)
            or not isinstance(self.strength, Real)
            or not math.isfinite(self.strength)
        ):
            raise UserError(f"strength is {self.strength!r}; it must be a finite number")
        object.__setattr__(self, "strength", float(self.strength))
        for name in ("starts", "senders", "receivers"):
            given = getattr(self, name)
            if isinstance(given, str) or not isinstance(given, Sequence):
                raise UserError(f"{name} is {given!r}; it must be a list")
            object.__setattr__(self, name, tuple(given))
