"""The truth about an organism, as data beside its weights: `truth.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.errors import UserError
from codi_lens.files import parse_json, read_text, write_json
from codi_lens.organisms.planted.family import Subspaces
from codi_lens.organisms.planted.mechanism import Mechanism, mechanism_named

TRUTH_FILE = "truth.json"


@dataclass(frozen=True)
class Truth:
    """What is known of an organism."""

    mechanism: str
    """Its name in `mechanism.MECHANISMS`."""
    text: str
    """In a sentence."""
    num_latents: int
    variables: tuple[str, ...]
    """The results v_1 … v_n; the last is the answer."""
    holds: Mapping[int, tuple[str, ...]]
    """Thought -> results that it holds."""
    way: Mapping[str, tuple[int, ...]]
    """The first result that differs between two questions -> thoughts through which the way from there to the answer
    leads."""
    routes: Mapping[int, str] = field(default_factory=dict)
    """Latent -> the one route out of it, "state" or "kv", where it is planted."""
    subspaces: Mapping[int, Mapping[str, Float[Tensor, "d_model d_half"]]] = field(
        default_factory=dict
    )
    """Thought -> result -> an orthonormal basis of the subspace in which the thought holds it."""

    @property
    def planted(self) -> Mechanism:
        """The mechanism, with its task and its rules."""
        return mechanism_named(self.mechanism)

    @property
    def halves(self) -> Subspaces | None:
        """The planted subspaces, where there are any."""
        for bases in self.subspaces.values():
            return Subspaces(torch.stack(list(bases.values())))
        return None


def truth_of(name: str, subspaces: Subspaces | None) -> Truth:
    """The truth about a mechanism, for a model that has these subspaces."""
    mechanism = mechanism_named(name)
    names = mechanism.task.variables
    bases = {}
    if subspaces is not None:
        (thought,) = (k for k, held in mechanism.holds.items() if len(held) == 2)
        held = [names[i] for i in mechanism.holds[thought]]
        bases = {thought: dict(zip(held, subspaces.bases, strict=True))}
    return Truth(
        name,
        mechanism.text,
        mechanism.num_latents,
        names,
        {k: tuple(names[i] for i in held) for k, held in mechanism.holds.items()},
        {names[first]: thoughts for first, thoughts in mechanism.way.items()},
        dict(mechanism.routes),
        bases,
    )


def write_truth(truth: Truth, folder: Path) -> None:
    """Writes `truth.json`."""
    bases = {
        k: {name: basis.tolist() for name, basis in own.items()}
        for k, own in truth.subspaces.items()
    }
    write_json({folder / TRUTH_FILE: {**vars(truth), "subspaces": bases}})


def read_truth(folder: Path) -> Truth:
    """The truth about the organism in a folder.

    Raises:
        UserError: the folder has none, or one that cannot be read.
    """
    path = folder / TRUTH_FILE
    try:
        entry: dict[str, Any] = parse_json(read_text(path))
        return Truth(
            entry["mechanism"],
            entry["text"],
            entry["num_latents"],
            tuple(entry["variables"]),
            _by_number(entry["holds"], tuple),
            {name: tuple(thoughts) for name, thoughts in entry["way"].items()},
            _by_number(entry["routes"], str),
            _by_number(entry["subspaces"], _bases),
        )
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; an organism's folder has one beside its weights"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the truth about an organism: {error!r}") from error


def _by_number(entry: Mapping[str, Any], read: Any) -> dict[int, Any]:
    return {int(number): read(value) for number, value in entry.items()}


def _bases(entry: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Tensor]:
    return {name: torch.tensor(basis) for name, basis in entry.items()}
