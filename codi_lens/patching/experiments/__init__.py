"""The experiments, one file each, by name.

`register` takes one more: an instance of a subclass of `Experiment`. Programs, records, figures and reports then
know it.
"""

from codi_lens.patching.experiments.base import (
    EXPERIMENTS,
    Experiment,
    experiment_named,
    register,
)
from codi_lens.patching.experiments.influence import Influence
from codi_lens.patching.experiments.iterative import Iterative
from codi_lens.patching.experiments.knockout import KnockOut
from codi_lens.patching.experiments.layers import Layers
from codi_lens.patching.experiments.paths import Paths
from codi_lens.patching.experiments.positions import Positions
from codi_lens.patching.experiments.routes import Routes

__all__ = [
    "EXPERIMENTS",
    "INFLUENCE",
    "ITERATIVE",
    "KNOCKOUT",
    "LAYERS",
    "PATHS",
    "POSITIONS",
    "ROUTES",
    "Experiment",
    "experiment_named",
    "register",
]

POSITIONS = register(Positions())
LAYERS = register(Layers())
ITERATIVE = register(Iterative())
ROUTES = register(Routes())
PATHS = register(Paths())
KNOCKOUT = register(KnockOut())
INFLUENCE = register(Influence())
