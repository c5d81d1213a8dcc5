"""What an experiment measured, in memory: one outcome per pair, all with the same labelled axes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from codi_lens.choices import CONTROLS
from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError, one_of
from codi_lens.model.hooks import Step
from codi_lens.patching.experiments import Experiment
from codi_lens.patching.experiments.base import Axes
from codi_lens.patching.labelled import PAIR, Labelled, known_of
from codi_lens.patching.metrics import METRICS
from codi_lens.patching.plan import Given
from codi_lens.patching.readout import READOUTS
from codi_lens.patching.settings import Label, Settings
from codi_lens.patching.structural_zeros import structural_zeros

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

DONOR_GIVEN = "donor_given"
"""Metric of the resample control: 1 where the donor's answer is the top-1 at every position."""
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
    """All that was measured on one pair; metrics are [effect, row, column]."""

    pair: Pair
    metrics: dict[str, Float[Tensor, "effect row column"]]
    base: RunRecord
    source: RunRecord
    activations: Float[Tensor, "layer position d_model"]
    """The source run's, at every layer and position."""
    base_activations: Float[Tensor, "layer position d_model"] | None = None
    """The base run's; not kept on disk."""
    generated: Float[Tensor, "effect row column d_model"] | None = None
    """Iterative patching: what each iteration left at the next position; NaN where there is none."""
    texts: dict[Cell, str] = field(default_factory=dict)
    """Greedy answers of the patched cells that were decoded."""
    donor: int | None = None
    """Pair id of the resample control's donor."""


@dataclass(frozen=True)
class Sweep:
    """An experiment over a list of pairs: every metric [pair, effect, row, column]."""

    experiment: Experiment
    settings: Settings
    num_layers: int
    """Layers that the model has, patched or not."""
    empty_stem: bool
    outcomes: tuple[PairOutcome, ...]
    has_eot: bool = True
    """Whether the model has tokens between thoughts and answer."""
    served_heads: int = 1
    """How many heads share a key/value head."""
    foreign_hooks: tuple[str, ...] = ()
    """Where on the model somebody else's hooks hung, which the runs went through."""
    model_digest: str = ""
    """The model's, as its manifest has it; "" of one that is in memory alone."""

    def __repr__(self) -> str:
        shape = " × ".join(f"{len(labels)} {name}s" for name, labels in self.axes.items())
        return f"Sweep({self.experiment.name}, {len(self.outcomes)} pairs, {shape})"

    @cached_property
    def axes(self) -> Axes:
        """The dimensions behind the pairs': "effect", "row" and "column", with their labels."""
        return self.experiment.axes(self.settings)

    @property
    def pairs(self) -> list[Pair]:
        """The pairs, in the order of the first axis of `values`."""
        return [outcome.pair for outcome in self.outcomes]

    def values(self, metric: str, **where: Label) -> Float[Tensor, "pair ..."]:
        """A metric [pair, effect, row, column], with the axes named in `where` fixed at a label.

        Rows and columns may be called what they are, such as layer=2, position=3.

        Raises:
            UserError: the sweep has no such metric, axis or label.
        """
        where = self._named(where)
        if self.outcomes:
            one_of(metric, self.outcomes[0].metrics, "metric", IN_SWEEP)
        stacked = torch.stack([outcome.metrics[metric] for outcome in self.outcomes])
        for name, labels in reversed(list(enumerate(self.axes.items(), start=1))):
            axis, known = labels
            if axis in where:
                label = one_of(where[axis], known, axis, IN_SWEEP)
                stacked = stacked.select(name, known.index(label))
        return stacked

    def _named(self, where: Mapping[str, Label]) -> dict[str, Label]:
        """Labels by axis, for labels by axis or by the experiment's own name for it."""
        names = self.experiment.cell_names  # of the rows, and of the columns if there are several
        own = dict(zip(names, ("row", "column")[: len(names)], strict=True))
        known = (*self.axes, *own)
        return {
            own.get(one_of(axis, known, "axis", IN_SWEEP), axis): v for axis, v in where.items()
        }

    def mean(self, metric: str, **where: Label) -> Float[Tensor, "..."]:
        """The mean over pairs of what `values` gives, those left out for which it is not defined.

        Of recovery it is the ratio of sums over the pairs, as everywhere: one with a small gap does not
        outweigh the others.
        """
        values = self.values(metric, **where)
        if metric != "recovery":
            return values.nanmean(0)
        where, (gained, gaps) = self._named(where), self.recovered(self.has_recovery)
        chosen = tuple(
            known.index(where[axis]) if axis in where else slice(None)
            for axis, known in self.axes.items()
        )
        return (gained.sum(0) / gaps.sum(0))[chosen].to(values)

    @property
    def has_recovery(self) -> Bool[Tensor, " pair"]:
        """The pairs that recovery is defined for."""
        return self.values("recovery").isfinite().flatten(1).any(1)

    def recovered(
        self, chosen: Bool[Tensor, " pair"]
    ) -> tuple[
        Float[Tensor, "chosen effect row column"], Float[Tensor, "chosen effect row column"]
    ]:
        """LD_patched − LD_base and LD_source − LD_base of the chosen pairs: recovery is their ratio."""
        patched = self.values("logit_diff")[chosen].double()
        runs = [o for o, kept in zip(self.outcomes, chosen.tolist(), strict=True) if kept]
        base = torch.tensor([o.base.metrics["logit_diff"] for o in runs], dtype=torch.float64)
        source = torch.tensor([o.source.metrics["logit_diff"] for o in runs], dtype=torch.float64)
        present = ~patched.isnan()
        gaps = (source - base).reshape(-1, 1, 1, 1).expand_as(patched) * present
        return (patched - base.reshape(-1, 1, 1, 1)).nan_to_num() * present, gaps

    @property
    def metrics(self) -> dict[str, Float[Tensor, "pair row column"]]:
        """Every metric of the main effect; NaN where a pair has none."""
        main = self.axes["effect"][0]
        return {name: self.values(name, effect=main) for name in self.outcomes[0].metrics}

    @cached_property
    def zeros(self) -> Bool[Tensor, "effect row column"]:
        """Cells that are zero by construction (`patching.structural_zeros`)."""
        plan = self.experiment.plan(
            self.settings, Given(0, self.num_layers, self.served_heads, with_donor=True)
        )
        latents = self.settings.num_latents
        last: Step = "eot" if self.has_eot else latents - 1 if latents else "bot"
        read = READOUTS[self.settings.answer_start].steps(self.empty_stem, last)
        return structural_zeros(plan, latents, self.num_layers, read)

    def structural_zeros(self, effect: Label | None = None) -> Bool[Tensor, "row column"]:
        """The cells of one effect, of the main one if None, that are zero by construction.

        Raises:
            UserError: the sweep has no such effect.
        """
        known = self.axes["effect"]
        return self.zeros[known.index(one_of(effect or known[0], known, "effect", IN_SWEEP))]

    def to_dataframe(self) -> "pd.DataFrame":
        """Every metric in long form: a row for every pair and cell.

        Columns: pair_id, kind and operand (where pairs know them), effect, control (whether the effect is one), row,
        column, structural_zero, and one a metric. Of pandas; needs the extra `data`.

        Raises:
            UserError: pandas is not installed, or the sweep has no pairs.
        """
        return self._labelled().to_dataframe()

    def to_xarray(self) -> "xr.Dataset":
        """Every metric as an array [pair, effect, row, column] with its labels; settings are attributes.

        Raises:
            UserError: xarray is not installed, or the sweep has no pairs.
        """
        return self._labelled().to_xarray()

    def _labelled(self) -> Labelled:
        if not self.outcomes:
            raise UserError("this sweep has no pairs; there is nothing to make a table of")
        cells = tuple(self.axes)
        control = [effect in CONTROLS for effect in self.axes["effect"]]
        # In the order in which they are measured: a record has them in another.
        own = self.outcomes[0].metrics
        names = dict.fromkeys([*(name for name in METRICS if name in own), *own])
        return Labelled(
            {PAIR: [pair.pair_id for pair in self.pairs], **self.axes},
            {
                **known_of(self.pairs),
                "control": (("effect",), control),
                "structural_zero": (cells, self.zeros.numpy()),
            },
            {name: ((PAIR, *cells), self.values(name).numpy()) for name in names},
            self.settings,
            {"experiment": self.experiment.name, "model_digest": self.model_digest},
        )
