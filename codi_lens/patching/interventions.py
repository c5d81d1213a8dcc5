"""What goes in at a site: objects that say which runs they look at and what they make of them.

An intervention of one's own is a dataclass with a field `reads` and a method `value`; the engine needs nothing
else. `values` is the same for several of a kind at once, and worth overriding where that is one operation.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.errors import UserError

Activation = Float[Tensor, "..."]


@dataclass(frozen=True)
class Intervention(ABC):
    """Something to put in a run's activation's place."""

    passes_on: ClassVar[bool] = False
    """Whether what goes in is the base run's wherever all that it reads is: then it changes nothing there."""
    reads: tuple[int, ...]
    """Runs of the plan whose activations at the same place it looks at, as the model computed them."""

    @abstractmethod
    def value(self, own: Activation, *read: Activation) -> Activation:
        """What goes in.

        Args:
            own: the run's own activation at the place, such as [d_model].
            read: those of the runs in `reads`, of the same shape.
        """

    @classmethod
    def values(cls, many: Sequence[Self], own: Activation, *read: Activation) -> Activation:
        """`value` of several interventions of this kind; every tensor is stacked, [intervention, …]."""
        given = zip(many, own, *read, strict=True)
        return torch.stack([one.value(mine, *theirs) for one, mine, *theirs in given])

    def renumbered(self, number: Mapping[int, int] | Sequence[int]) -> Self:
        """The same, with the runs that it looks at under other numbers."""
        return replace(self, reads=tuple(number[run] for run in self.reads))


@dataclass(frozen=True)
class FromRun(Intervention):
    """Activation patching: another run's activation."""

    passes_on = True

    def value(self, own: Activation, *read: Activation) -> Activation:
        return read[0]

    @classmethod
    def values(cls, many: Sequence[Self], own: Activation, *read: Activation) -> Activation:
        return read[0]


@dataclass(frozen=True)
class Constant(Intervention):
    """A value: zero ablation, mean ablation, a saved activation."""

    constant: Activation

    def value(self, own: Activation, *read: Activation) -> Activation:
        return _like(self.constant, own)


@dataclass(frozen=True)
class Add(Intervention):
    """own + scale · vector: steering (Turner et al., arXiv 2308.10248)."""

    vector: Activation
    scale: float = 1.0

    def value(self, own: Activation, *read: Activation) -> Activation:
        return own + self.scale * _like(self.vector, own)


@dataclass(frozen=True)
class RandomDirection(Intervention):
    """base + ‖source − base‖ · u, u drawn uniformly from the sphere: as large a displacement, to somewhere else.

    Reads the base and the source.
    """

    passes_on = True
    seed: int

    def value(self, own: Activation, *read: Activation) -> Activation:
        return self.values([self], own[None], *(one[None] for one in read))[0]

    @classmethod
    def values(cls, many: Sequence[Self], own: Activation, *read: Activation) -> Activation:
        base, source = read
        size = own[0].numel()
        directions = torch.stack([unit_vector(one.seed, size) for one in many]).to(own)
        distance = (source - base).reshape(len(base), -1).norm(dim=-1, keepdim=True)
        return base + (distance * directions).view_as(base)


@lru_cache(maxsize=2**14)
def unit_vector(seed: int, size: int) -> Float[Tensor, " size"]:
    """A vector of length 1, uniform over directions; in float64."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(size, generator=generator, dtype=torch.float64)
    return direction / direction.norm()


@dataclass(frozen=True)
class InSubspace(Intervention):
    """own + (source − own) V Vᵀ: what lies in the span of V is the source's (Geiger et al., arXiv 2303.02536)."""

    basis: Float[Tensor, "width rank"]
    """Orthonormal columns."""

    def value(self, own: Activation, *read: Activation) -> Activation:
        return self.exchanged(own, read[0], self.basis.to(own))

    @staticmethod
    def exchanged(own: Activation, source: Activation, basis: Activation) -> Activation:
        """`own` [..., width] with what lies in a subspace taken from `source`."""
        return own + (source - own) @ basis @ basis.T


@dataclass(frozen=True)
class Apply(Intervention):
    """A function of the user's, of the run's own activation and of those that it reads."""

    function: Callable[..., Activation]

    def value(self, own: Activation, *read: Activation) -> Activation:
        return self.function(own, *read)


def from_run(run: int) -> FromRun:
    """Another run's activation at the same place."""
    return FromRun((run,))


def constant(value: Activation) -> Constant:
    """A value."""
    return Constant((), value)


def _like(value: Activation, own: Activation) -> Activation:
    """A value in the shape of what it takes the place of; a number stands for all of it."""
    if value.numel() not in (1, own.numel()):
        shapes = f"{tuple(value.shape)}; it goes where {tuple(own.shape)} is"
        raise UserError(f"the value to put in has shape {shapes}")
    value = value.to(own)
    return value.reshape(own.shape) if value.numel() == own.numel() else value.expand_as(own)
