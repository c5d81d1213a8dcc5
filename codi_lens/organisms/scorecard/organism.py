"""An organism: a model with a planted mechanism, its pairs, and the truth about it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from codi_lens.data.pairs import Pair, load_pairs
from codi_lens.errors import UserError
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.organisms.planted.certify import interchange_accuracy
from codi_lens.organisms.planted.truth import Truth, read_truth
from codi_lens.shipped import ORGANISMS


@dataclass(frozen=True)
class Organism:
    """A model whose mechanism is known."""

    name: str
    codi: HookedCodi
    pairs: tuple[Pair, ...]
    truth: Truth

    @cached_property
    def iia(self) -> dict[str, list[float]]:
        """Result -> thought by thought, how often exchanging the thought sets that result; on 200 held-out problems."""
        return interchange_accuracy(self.codi, self.truth)


def load_organism(name_or_folder: str | Path) -> Organism:
    """An organism by its name ("sequential"), or from a folder as `codi-lens train_organism` writes it.

    Raises:
        UserError: there is none, or it lacks a part.
    """
    name = str(name_or_folder).removeprefix("organism:")
    folder = ORGANISMS.get(name, Path(name_or_folder))
    if not folder.is_dir():
        raise UserError(
            f"no organism {name!r}; known are {', '.join(ORGANISMS)}, or give the folder of one"
        )
    truth = read_truth(folder)
    codi = HookedCodi.from_pretrained(folder)
    return Organism(name, codi, tuple(load_pairs(folder)), truth)
