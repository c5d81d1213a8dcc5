"""JSON objects from files of any origin, and what each of their fields may hold.

A kind takes a value and what it is called, and returns the value as the package uses it, or raises
`UserError`. A table of kinds by field name describes all fields of a file.
"""

import math
import numbers
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from codi_lens.errors import UserError, whole_number
from codi_lens.files import parse_json, read_text

Kind = Callable[[Any, str], Any]
LARGEST = 2**31 - 1
"""Of whole numbers: the product of two such sizes, in bytes, is still a number that torch can hold."""


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: not UTF-8, not JSON, nested too deep, or no object.
    """
    content = read_text(path)
    try:
        values = parse_json(content)
    except RecursionError as error:
        raise UserError(f"{path}: nested too deep to be read; expected a JSON object") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); expected an object") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds {type(values).__name__}; expected a JSON object")
    return values


def check_fields(
    values: Mapping[str, Any], kinds: Mapping[str, Kind], where: str = ""
) -> dict[str, Any]:
    """Those of `values` that `kinds` knows, checked; `where` is the place that an error names."""
    place = f"{where}: " if where else ""
    return {
        name: kind(values[name], f"{place}field {name!r}")
        for name, kind in kinds.items()
        if name in values
    }


def known_fields(
    values: Mapping[str, Any], kinds: Mapping[str, Kind], where: str
) -> dict[str, Any]:
    """As `check_fields`, for values of which none may be unknown.

    Raises:
        UserError: as `check_fields` does; or names the first field that is not known.
    """
    if unknown := sorted(set(values) - set(kinds)):
        raise UserError(f"{where}: unknown field {unknown[0]!r}; known fields: {sorted(kinds)}")
    return check_fields(values, kinds, where)


def text(value: Any, what: str) -> str:
    """A str that can be written as UTF-8: JSON's escapes can spell half a character."""
    if not isinstance(value, str):
        raise _unfit(value, what, "a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _unfit(value, what, "a text, without lone surrogates") from error
    return value


def texts(value: Any, what: str) -> tuple[str, ...]:
    """A list of texts."""
    if not isinstance(value, list | tuple):
        raise _unfit(value, what, "a list of texts")
    return tuple(text(item, f"an item of {what}") for item in value)


def flag(value: Any, what: str) -> bool:
    """True or false, and no number."""
    if not isinstance(value, bool):
        raise _unfit(value, what, "true or false")
    return value


def positive(value: Any, what: str) -> float:
    """A number above zero that a float can hold."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not isinstance(value, numbers.Real) or not 0 < number < math.inf:
        raise _unfit(value, what, "a positive number")
    return number


def count(value: Any, what: str, at_least: int = 0) -> int:
    """A whole number from `at_least` to `LARGEST`."""
    number = whole_number(value, what, at_least=at_least)
    if number > LARGEST:
        raise _unfit(number, what, f"at most {LARGEST}")
    return number


def size(value: Any, what: str) -> int:
    """A whole number from 1 to `LARGEST`."""
    return count(value, what, at_least=1)


def optional(kind: Kind) -> Kind:
    """The kind, or None."""
    return lambda value, what: None if value is None else kind(value, what)


def _unfit(value: Any, what: str, needed: str) -> UserError:
    return UserError(f"{what} is {reprlib.repr(value)}; it must be {needed}")
