"""How an organism is trained, as data, and what is noted on the way."""

from dataclasses import dataclass, field, replace

from codi_lens.organisms.planted.mechanism import Mechanism, mechanism_named


@dataclass(frozen=True)
class Recipe:
    """Everything that the trained weights depend on."""

    name: str
    seed: int = 0
    batch: int = 128
    lr: float = 2e-3
    warmup: int = 100
    threshold: float = 0.95
    """Held-out accuracy from which on rows are exchanged."""
    at_most: int = 6000
    """Steps until then."""
    steps: int = 1500
    """Steps with exchanges; the learning rate falls to nearly zero over them."""
    says: float = 0.3
    """Weight of what states must say."""
    interchange: float = 1.0
    follows: float = 0.0
    """Of what states must say in runs with exchanges, within the weight of these."""
    weight_decay: float = 0.01
    pool: int = 40_000
    """Training problems of each wording, drawn once."""

    @property
    def mechanism(self) -> Mechanism:
        """What is planted."""
        return mechanism_named(self.name)


EVERY = 250
"""Steps between two lines of the training curve."""
OWN: dict[str, dict[str, float]] = {
    "dense": {"steps": 2500},
    "sequential": {"steps": 2500},
    "late": {"steps": 2500},
    "pointer": {"steps": 2500},
    "redundant": {"steps": 4000, "follows": 0.3},
    "subspace": {"says": 1.0, "steps": 3000, "follows": 0.3},
}
"""What recipes have of their own, by mechanism."""


def recipe_of(name: str, seed: int = 0) -> Recipe:
    """The recipe of an organism, by the name of its mechanism."""
    mechanism_named(name)
    return replace(Recipe(name, seed), **OWN.get(name, {}))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Progress:
    """A line of the training curve; losses are means since the line before."""

    step: int
    seconds: float
    answer_loss: float
    says_loss: float
    interchange_loss: float
    accuracy: float
    """Share of held-out problems answered right."""
    worst_rule: float
    """Share of held-out interchanges that do what the worst rule says; 0 before there are any."""


@dataclass
class State:
    """How far a run is, beside its weights."""

    exchanges: bool
    """Whether rows are exchanged by now."""
    failing: list[float]
    """Of each rule: the share of held-out interchanges that did not do what it says."""
    step: int = 0
    exchanged_steps: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Of the losses since the last line of the curve."""
