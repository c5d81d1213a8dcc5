"""The experiments, one file each, by name.

`register` takes one more: an instance of a subclass of `Experiment`. Programs, records, figures and reports then
know it.
"""

from codi_lens.errors import one_of
from codi_lens.patching.experiments.base import Experiment
from codi_lens.patching.experiments.iterative import Iterative
from codi_lens.patching.experiments.layers import Layers
from codi_lens.patching.experiments.positions import Positions

__all__ = [
    "EXPERIMENTS",
    "ITERATIVE",
    "LAYERS",
    "POSITIONS",
    "Experiment",
    "experiment_named",
    "register",
]

EXPERIMENTS: dict[str, Experiment] = {}
"""By name."""


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


POSITIONS = register(Positions())
LAYERS = register(Layers())
ITERATIVE = register(Iterative())
