"""Arrays with named dimensions, as what other tools take: a pandas table, or an xarray dataset.

Both packages come with the extra `data`, and are imported when they are asked for.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError
from codi_lens.patching.settings import Label, Settings

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

EXTRA = "pip install 'codi-lens[data]'"
PAIR = "pair"
Variable = tuple[tuple[str, ...], Any]
"""Names of an array's dimensions, and the array."""


def needed(package: str) -> Any:
    """A package of the extra `data`.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"this needs {package}, which is not installed: {EXTRA}") from error


@dataclass(frozen=True)
class Labelled:
    """Values by pair and cell, with what is known of both."""

    dimensions: Mapping[str, Sequence[Label]]
    """Name -> labels, in order."""
    known: Mapping[str, Variable]
    """What is said of labels or cells, beside the values."""
    values: Mapping[str, Variable]
    settings: Settings
    about: Mapping[str, str]
    """Further attributes of the dataset."""

    def to_dataframe(self) -> "pd.DataFrame":
        """Long form: a row for every combination of labels."""
        shape = tuple(map(len, self.dimensions.values()))

        def spread(variable: Variable) -> Any:
            over, array = variable
            sizes = [
                n if name in over else 1 for name, n in zip(self.dimensions, shape, strict=True)
            ]
            return np.broadcast_to(np.asarray(array).reshape(sizes), shape).ravel()

        columns = {}
        for name, labels in self.dimensions.items():
            columns["pair_id" if name == PAIR else name] = spread(((name,), as_array(labels)))
            # What is said of several dimensions stands behind the last of them.
            columns |= {key: spread(own) for key, own in self.known.items() if own[0][-1] == name}
        columns |= {name: spread(own) for name, own in self.values.items()}
        table: pd.DataFrame = needed("pandas").DataFrame(columns)
        return table

    def to_xarray(self) -> "xr.Dataset":
        """The same with its dimensions; settings, as JSON, are among its attributes."""
        found: xr.Dataset = needed("xarray").Dataset(
            dict(self.values),
            {name: as_array(own) for name, own in self.dimensions.items()} | dict(self.known),
            {**self.about, "settings": json.dumps(asdict(self.settings))},
        )
        return found


def known_of(pairs: Sequence[Pair]) -> dict[str, Variable]:
    """What pairs say of themselves: kind and operand, where any of them does."""
    said = {name: [getattr(pair, name) for pair in pairs] for name in ("kind", "operand")}
    return {name: ((PAIR,), np.array(own, dtype=object)) for name, own in said.items() if any(own)}


def as_array(labels: Sequence[Label]) -> Any:
    """Labels of one sort, as columns and coordinates need them: numbers, or texts where one is a text."""
    if all(isinstance(label, int) for label in labels):
        return np.array(labels, dtype=np.int64)
    return np.array([str(label) for label in labels])
