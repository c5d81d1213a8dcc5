"""The scorecard: what each method says of models whose mechanism is known.

* `organism`: an organism with its pairs and its truth, from a name or a folder.
* `methods`: every technique of this package as a method, by name; your own can be added.
* `scoring`: `score(method, organism)`, and the whole table.
"""

from codi_lens.organisms.scorecard.methods import METHODS, Findings, Method, register_method
from codi_lens.organisms.scorecard.organism import Organism, load_organism
from codi_lens.organisms.scorecard.scoring import Score, score

__all__ = [
    "METHODS",
    "Findings",
    "Method",
    "Organism",
    "Score",
    "load_organism",
    "register_method",
    "score",
]
