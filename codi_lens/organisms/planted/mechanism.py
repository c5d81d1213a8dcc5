"""Mechanisms as data: which thought holds which result, by which route, and what interchanges show it.

A *rule* exchanges parts of one problem's run for those of another problem's and says whose results the answer must then
follow (interchange, Geiger et al. 2021). A rule that sets nothing is *strict*: it exchanges what lies outside the
mechanism, and the answer must stay (Gupta et al. 2024).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from codi_lens.errors import one_of
from codi_lens.organisms.planted.task import Chain, Lookup, Task, Tree

THOUGHT, KV = "thought", "kv"
PARTS = (THOUGHT, KV, "half 0", "half 1")
"""What can be exchanged at a latent: the thought that is fed, its keys and values in all layers, or what of the thought lies in
one of the two planted subspaces."""


@dataclass(frozen=True)
class Rule:
    """An interchange, and what it must do."""

    exchanged: tuple[tuple[str, int], ...]
    """(part, latent): these become the other problem's."""
    sets: tuple[int, ...] = ()
    """Indices of the results that the answer must then take from the other problem; none: the answer stays."""
    held: tuple[int, ...] = ()
    """Latents whose thoughts are kept at what they are without any exchange."""

    @property
    def strict(self) -> bool:
        """Whether the answer must stay."""
        return not self.sets

    @property
    def name(self) -> str:
        """In words, such as "thought 2 → v2"."""
        at: dict[str, list[str]] = {}
        for part, k in self.exchanged:
            at.setdefault("thought" if part == THOUGHT else f"{part} at", []).append(str(k))
        what = " + ".join(f"{part} {', '.join(latents)}" for part, latents in at.items())
        kept = f", thought {self.held[0]} held" if self.held else ""
        to = ", ".join(f"v{i + 1}" for i in self.sets) or "nothing"
        return f"{what}{kept} → {to}"


@dataclass(frozen=True)
class Mechanism:
    """What is planted."""

    text: str
    """In a sentence, for card and documentation."""
    task: Task
    num_latents: int
    holds: Mapping[int, tuple[int, ...]]
    """Thought -> indices of the results that it holds."""
    rules: tuple[Rule, ...]
    says: Mapping[int, int] = field(default_factory=dict)
    """Thought -> index of the result that the state it is made from says, through the unembedding."""
    says_in_question: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """(Layer but the last, operand) -> index of the result that the layer's output says there, through final norm and
    unembedding."""
    way: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Index of the first result that differs between two problems -> thoughts through which the way from there to the
    answer leads."""
    routes: Mapping[int, str] = field(default_factory=dict)
    """Latent -> the one route out of it, "state" or "kv"."""
    subspaces: bool = False
    """Whether a thought holds its results in planted subspaces."""
    n_layers: int = 2
    begins_from: str | None = None
    """A mechanism from whose trained weights this one starts."""


def _swap(*thoughts: int, sets: int | None = None) -> Rule:
    sets_what = () if sets is None else (sets,)
    return Rule(tuple((THOUGHT, k) for k in thoughts), sets_what)


def _idle(*latents: int) -> tuple[Rule, ...]:
    """Nothing is in these thoughts, nor in their keys and values, one by one or all together."""
    both = tuple((part, k) for part in (THOUGHT, KV) for k in latents)
    return (*(Rule((one,)) for one in both), Rule(both))


def _chain(
    text: str,
    holds: Mapping[int, tuple[int, ...]],
    rules: tuple[Rule, ...],
    num_latents: int = 6,
    **more: object,
) -> Mechanism:
    """A mechanism for a chain, each result in its thoughts; the way from one leads through what holds it or a later one."""
    hops = 1 + max(i for held in holds.values() for i in held)
    way = {
        first: tuple(k for k, held in holds.items() if max(held) >= first) for first in range(hops)
    }
    says = {k: held[0] for k, held in holds.items()}
    given = {"says": says, "way": way} | more
    return Mechanism(text, Chain(hops), num_latents, holds, rules, **given)  # type: ignore[arg-type]


_SEQUENTIAL = {0: (0,), 2: (1,), 4: (2,)}
_OWN = tuple(_swap(k, sets=held[0]) for k, held in _SEQUENTIAL.items())
_KV_OF_2 = ((KV, 2),)

MECHANISMS: dict[str, Mechanism] = {
    "dense": _chain(
        "Thought k holds v_{k+1}: one hop a thought.",
        {k: (k,) for k in range(4)},
        tuple(_swap(k, sets=k) for k in range(4)),
        num_latents=4,
    ),
    "sequential": _chain(
        "v1 is in thought 0, v2 in thought 2, v3 in thought 4; latents 1, 3 and 5 are idle.",
        _SEQUENTIAL,
        (*_OWN, *_idle(1, 3, 5)),
    ),
    "late": _chain(
        "Latents 0, 1 and 2 are idle; v1, v2 and v3 are in thoughts 3, 4 and 5.",
        {3: (0,), 4: (1,), 5: (2,)},
        (*(_swap(k + 3, sets=k) for k in range(3)), *_idle(0, 1, 2)),
    ),
    "redundant": _chain(
        "Each result is in two thoughts, v1 in 0 and 1, v2 in 2 and 3, v3 in 4 and 5, and either suffices.",
        {k: (k // 2,) for k in range(6)},
        (
            *(_swap(2 * i, 2 * i + 1, sets=i) for i in range(3)),
            *(_swap(k) for k in range(6)),
        ),
        begins_from="sequential",
    ),
    "state-route": _chain(
        "As sequential, but v2 leaves thought 2 only by being fed on: thought 3 holds it too.",
        {0: (0,), 2: (1,), 3: (1,), 4: (2,)},
        (*_OWN, _swap(3, sets=1), Rule(_KV_OF_2, held=(3,)), *_idle(1, 5)),
        routes={2: "state"},
        begins_from="sequential",
    ),
    "kv-route": _chain(
        "As sequential, but v2 leaves thought 2 only by keys and values.",
        _SEQUENTIAL,
        (*_OWN, Rule(_KV_OF_2, sets=(1,), held=(3,)), *_idle(1, 3, 5)),
        routes={2: "kv"},
        begins_from="sequential",
    ),
    "decoy": _chain(
        "As sequential, and thought 5 holds the answer too, readable by a lens, and nothing uses it.",
        _SEQUENTIAL,
        (*_OWN, *_idle(1, 3, 5)),
        says={0: 0, 2: 1, 4: 2, 5: 2},
        begins_from="sequential",
    ),
    "subspace": Mechanism(
        "Thought 2 holds v1 and v2, the two brackets, in two orthogonal halves; thought 4 holds v3.",
        Tree(),
        6,
        {2: (0, 1), 4: (2,)},
        (
            Rule((("half 0", 2),), (0,)),
            Rule((("half 1", 2),), (1,)),
            Rule(((THOUGHT, 2),), (0, 1)),
            _swap(4, sets=2),
            *_idle(0, 1, 3, 5),
        ),
        says={4: 2},
        says_in_question={(0, 1): 0, (0, 3): 1},
        way={0: (2, 4), 1: (2, 4)},
        subspaces=True,
        begins_from="sequential",
    ),
    "bypass": Mechanism(
        "The answer is computed in the question, a hop a layer; thoughts are read by nothing.",
        Chain(3),
        6,
        {},
        _idle(*range(6)),
        says_in_question={(0, 1): 0, (1, 2): 1, (2, 3): 2},
        way=dict.fromkeys(range(3), ()),
        n_layers=4,  # a layer a hop, and one to read the last
    ),
    "pointer": Mechanism(
        "Thought 2 holds a place in a list, and the answer is the digit there: needed, but no digit can be transplanted.",
        Lookup(),
        6,
        {2: (0,)},
        (_swap(2, sets=0), *_idle(0, 1, 3, 4, 5)),
        says={2: 0},
        way={1: (2,)},
    ),
}
"""By name."""


def mechanism_named(name: str) -> Mechanism:
    """The mechanism of a name.

    Raises:
        UserError: lists those known.
    """
    return MECHANISMS[one_of(name, MECHANISMS, "mechanism")]
