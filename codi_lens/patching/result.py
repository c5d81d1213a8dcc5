"""What an experiment measured, in memory: one outcome per pair, all with the same labelled axes."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from codi_lens.data.pairs import Pair
from codi_lens.errors import one_of
from codi_lens.patching.plans import Label, Settings
from codi_lens.patching.structural_zeros import is_structural_zero

DONOR_GIVEN = "donor_given"
"""Metric of the donor control: 1 where the donor's answer is the top-1 at every position."""
IN_SWEEP = "in this sweep"
"""Where a metric, axis or label was looked for, in messages."""
Cell = tuple[int, ...]
"""Indices along a sweep's axes."""


@dataclass(frozen=True)
class RunRecord:
    """An unpatched run of one pair: the cell metrics of it, and what it says when decoded greedily."""

    metrics: dict[str, float]
    text: str
    correct: bool


@dataclass(frozen=True)
class PairOutcome:
    """All that was measured on one pair; tensors have the sweep's axes."""

    pair: Pair
    metrics: dict[str, Float[Tensor, "..."]]
    base: RunRecord
    source: RunRecord
    activations: Float[Tensor, "layer position d_model"]
    """The source run's, at every layer and position."""
    base_activations: Float[Tensor, "layer position d_model"] | None = None
    """The base run's; not kept on disk."""
    generated: Float[Tensor, "... d_model"] | None = None
    """Iterative patching: what each iteration left at the next position; NaN where there is none."""
    texts: dict[Cell, str] = field(default_factory=dict)
    """Greedy answers of the patched cells that were decoded."""
    donor: int | None = None
    """Pair id of the donor control."""


@dataclass(frozen=True)
class Sweep:
    """An experiment over a list of pairs."""

    experiment: str
    settings: Settings
    axes: dict[str, tuple[Label, ...]]
    """The axes behind the pair axis, with their labels."""
    num_layers: int
    """Layers that the model has, patched or not."""
    empty_stem: bool
    outcomes: tuple[PairOutcome, ...]
    foreign_hooks: tuple[str, ...] = ()
    """Where on the model somebody else's hooks hung, which the runs went through."""

    def values(self, metric: str, **where: Label) -> Float[Tensor, "pair ..."]:
        """A metric [pair, …axes], with the axes named in `where` fixed at a label.

        Raises:
            UserError: the sweep has no such metric, axis or label.
        """
        for axis in where:
            one_of(axis, self.axes, "axis", IN_SWEEP)
        if self.outcomes:
            one_of(metric, self.outcomes[0].metrics, "metric", IN_SWEEP)
        stacked = torch.stack([outcome.metrics[metric] for outcome in self.outcomes])
        for name, labels in reversed(list(enumerate(self.axes.items(), start=1))):
            axis, known = labels
            if axis in where:
                label = one_of(where[axis], known, axis, IN_SWEEP)
                stacked = stacked.select(name, known.index(label))
        return stacked

    @property
    def metrics(self) -> dict[str, Float[Tensor, "pair ..."]]:
        """Every metric of the main variant ([pair, layer, position]); NaN where a pair has none."""
        main = {"variant": self.axes["variant"][0]} if "variant" in self.axes else {}
        return {name: self.values(name, **main) for name in self.outcomes[0].metrics}

    @property
    def pairs(self) -> list[Pair]:
        """The pairs, in the order of the first axis of `values`."""
        return [outcome.pair for outcome in self.outcomes]

    def structural_zeros(self, variant: str | None = None) -> Bool[Tensor, "layer position"]:
        """Cells of a map (position-wise) or of a profile (layer-wise) that are zero by construction."""
        variants = self.settings.variants
        variant = one_of(variant or variants[0], variants, "variant", IN_SWEEP)
        steps: list[tuple[Label, ...]] = [(step,) for step in self.settings.positions]
        if "position" not in self.axes:
            steps = [self.settings.positions]
        zeros = [
            [
                is_structural_zero(
                    self.settings,
                    variant,
                    layer,
                    group,
                    num_layers=self.num_layers,
                    empty_stem=self.empty_stem,
                )
                for group in steps
            ]
            for layer in self.settings.layers
        ]
        return torch.tensor(zeros) if "position" in self.axes else torch.tensor(zeros)[:, 0]
