"""What goes in at a site: objects that say which runs they look at and what they make of them.

An intervention of one's own is a dataclass with a field `reads` and a method `value`; the engine needs nothing
else. `values` is the same for several of a kind at once, and worth overriding where that is one operation.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

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

    def shifted(self, by: int) -> Self:
        """The same, with the runs that it looks at further down a list."""
        return replace(self, reads=tuple(run + by for run in self.reads))


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
        return self.constant.to(own)


@dataclass(frozen=True)
class RandomDirection(Intervention):
    """base + ‖source − base‖ · direction: as large a displacement as the source's, to somewhere else.

    Reads the base and the source; `direction` has length 1.
    """

    passes_on = True
    direction: Activation

    def value(self, own: Activation, *read: Activation) -> Activation:
        base, source = read
        return base + (source - base).norm(dim=-1, keepdim=True) * self.direction.to(own)

    @classmethod
    def values(cls, many: Sequence[Self], own: Activation, *read: Activation) -> Activation:
        directions = torch.stack([one.direction.to(own) for one in many])
        base, source = read
        return base + (source - base).norm(dim=-1, keepdim=True) * directions


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
