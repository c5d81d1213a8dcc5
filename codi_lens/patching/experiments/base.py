"""What an experiment is: its plan for a pair, and how its result is laid out.

All experiments have the same three dimensions: effect × row × column. Rows are layers; what the effects and
the columns are is the experiment's to say. So nothing that measures, stores, draws or compares needs to know
which experiment it has before it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.choices import EFFECTS
from codi_lens.errors import UserError, one_of
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.places import FORMS, form_of
from codi_lens.patching.plan import Given, Place, Plan, grid_of
from codi_lens.patching.settings import Label, Settings

Axes = dict[str, tuple[Label, ...]]
Table = Mapping[str, Mapping[str, Mapping[str, dict[str, Any]]]]
"""{effect: {row: {column: metrics}}}, as JSON has it."""


EXPERIMENTS: "dict[str, Experiment]" = {}
"""By name."""
OF_SOME = {
    field.name: field.default
    for field in fields(Settings)
    if field.name
    in ("intervention", "strength", "starts", "senders", "receivers", "window", "values")
}
"""Settings that only some experiments use -> what stands there otherwise."""


class Experiment(ABC):
    """An experiment, of which there is one instance; see `codi_lens.patching.experiments`."""

    name: ClassVar[str]
    """In records and on the command line."""
    title: ClassVar[str]
    """In figures and tables."""
    across: ClassVar[str]
    """What a column is."""
    cells_key: ClassVar[str]
    """Where a pair's cells stand in the JSON of its results."""
    cell_names: ClassVar[tuple[str, ...]]
    """What a row, and a column, is called where cells are listed; a single column has no name."""
    means_keys: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Key at the top of the aggregates -> the metric whose means stand there."""
    uses: ClassVar[frozenset[str]] = frozenset()
    """Those of `OF_SOME` that mean something to it."""
    shows: ClassVar[tuple[str, ...]] = ("recovery", "kl_divergence")
    """Metrics that its figures and tables begin with; cells are ranked by the first."""
    has_effects: ClassVar[bool] = True
    """Whether the setting `effect` means something to it."""
    has_controls: ClassVar[bool] = True
    """Whether its first effect is the main one, and the others are parts or controls of it."""
    alone: ClassVar[bool] = False
    """Whether a cell depends on its own row and column alone, so that some can be run again without the others."""
    iterates: ClassVar[bool] = False
    """Whether its columns go on from one another, so that they are drawn as lines."""

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def check(self, settings: Settings) -> None:
        """Refuses settings that the experiment would ignore.

        Raises:
            UserError: names the setting, and what would do.
        """
        if not self.has_effects and settings.effect != EFFECTS[0]:
            raise UserError(
                f"effect={settings.effect!r} means nothing to {self.name}, which has {EFFECTS[0]!r} alone; leave it out"
            )
        for name, default in OF_SOME.items():
            if name not in self.uses and (given := getattr(settings, name)) != default:
                others = [other.name for other in EXPERIMENTS.values() if name in other.uses]
                raise UserError(
                    f"{name}={given!r} means nothing to {self.name}; leave it out"
                    + (f" ({', '.join(others)} would use it)" if others else "")
                )

    def filled(self, codi: HookedCodi, settings: Settings) -> Settings:
        """The settings with what was left open taken from the model.

        Raises:
            UserError: a place that the model does not have.
        """
        return settings

    def places(self, settings: Settings) -> tuple[Place, ...]:
        """Where something is put in."""
        return grid_of(settings)

    def derived(
        self,
        codi: HookedCodi,
        settings: Settings,
        generated: Float[Tensor, "effect row column width"],
        base: Float[Tensor, "layer position width"],
        source: Float[Tensor, "layer position width"],
    ) -> dict[str, Float[Tensor, "effect row column"]]:
        """Metrics of what cells generated (`Plan.generated`), beside those of the answer."""
        return {}

    def effects(self, settings: Settings) -> tuple[Label, ...]:
        """Labels of the first dimension."""
        return settings.effects

    @property
    def heading(self) -> str:
        """In titles of figures."""
        return f"{self.title.capitalize()} patching"

    def subject(self, settings: Settings) -> str:
        """What is changed, for subtitles."""
        usual = settings.intervention == OF_SOME["intervention"]
        put_in = "" if usual else f", {settings.intervention} put in"
        return f"{settings.site}{put_in}"

    def down(self, settings: Settings) -> str:
        """What a row is, for axes."""
        forms = {form_of(label) for label in settings.layers}
        return FORMS[forms.pop()] if len(forms) == 1 else "place"

    def rows(self, settings: Settings) -> tuple[Label, ...]:
        """Labels of the second dimension."""
        return settings.layers

    @abstractmethod
    def columns(self, settings: Settings) -> tuple[Label, ...]:
        """Labels of the third dimension."""

    def axes(self, settings: Settings) -> Axes:
        """The three dimensions, with their labels."""
        return {
            "effect": self.effects(settings),
            "row": self.rows(settings),
            "column": self.columns(settings),
        }

    @abstractmethod
    def plan(self, settings: Settings, given: Given) -> Plan:
        """The runs of one pair."""

    def lines(
        self, means: Float[Tensor, "effect row column"], axes: Axes
    ) -> dict[str, list[tuple[int, int, int]]]:
        """Profiles over rows: what is taken -> the cell of each row. By itself the largest of each row."""
        best = means[0].nan_to_num(-torch.inf).argmax(-1).tolist()
        return {"largest cell": [(0, row, column) for row, column in enumerate(best)]}

    def tabulate(self, cells: Table) -> dict[str, Any]:
        """A pair's cells as its entry in the results has them; `cells_of` takes them back."""
        main, *others = cells
        entry: dict[str, Any] = {self.cells_key: cells[main]}
        return entry | ({"effects": {name: cells[name] for name in others}} if others else {})

    def cells_of(self, entry: Mapping[str, Any], axes: Axes) -> Table:
        """The cells of a pair's entry: those of the main effect, where answers are decoded."""
        return {str(axes["effect"][0]): entry.get(self.cells_key, {})}


def register(experiment: Experiment) -> Experiment:
    """Makes an experiment known by its name; returns it."""
    EXPERIMENTS[experiment.name] = experiment
    return experiment


def experiment_named(name: str | Experiment) -> Experiment:
    """The experiment of a name, or the one given.

    Raises:
        UserError: lists those known.
    """
    return (
        name
        if isinstance(name, Experiment)
        else EXPERIMENTS[one_of(name, EXPERIMENTS, "experiment")]
    )
