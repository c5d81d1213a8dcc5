"""The one exception that stands for a mistake in what the user gave, and what its messages are made with."""

import operator
import reprlib
import shlex
import sys
from collections.abc import Callable, Collection
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
COMMAND = "codi-lens"
"""The command that an installed package has; a clone has `python -m experiments.NAME` too."""


class UserError(ValueError):
    """Input that cannot be used: the message says what was asked, what was found, what would do.

    Command-line programs print it without a traceback and end with exit code 2.
    """


def whole_number(value: Any, what: str, *, at_least: int = 0) -> int:
    """`value` as an int: anything that `operator.index` takes, such as NumPy's integers, but no boolean.

    Raises:
        UserError: another kind of value, or one below `at_least`; `what` names it.
    """
    needed = f"a whole number, {at_least} or more"
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < at_least:
        # In short: a value from a file may be of any length.
        raise UserError(f"{what} is {reprlib.repr(value)}; it must be {needed}")
    return number


def set_once(owner: object, name: str, value: object) -> None:
    """Sets an attribute, as the `__setattr__` of a class whose parts belong together.

    Raises:
        UserError: the attribute is there already.
    """
    if name in vars(owner):
        raise UserError(
            f"the {name} of a {type(owner).__name__} cannot be replaced; make a new one, "
            "HookedCodi(model, projection, tokenizer, config)"
        )
    object.__setattr__(owner, name, value)


def command(program: str, *arguments: object) -> str:
    """How to call one of the programs in a shell, for messages: as this process itself was called."""
    words = ["python", "-m", f"experiments.{program}"]
    if Path(sys.argv[0]).stem == COMMAND:
        words = [COMMAND, program]
    return shlex.join([*words, *map(str, arguments)])


def one_of(value: T, known: Collection[Any], what: str, where: str = "") -> T:
    """`value`, if it is one of `known`.

    Raises:
        UserError: it is none of them. The message says `what` was asked for, `where` ("in this sweep"),
            and what is known.
    """
    if not any(_same(value, one) for one in known):
        asked = f"no {what} {value!r} {where}".strip()
        raise UserError(f"{asked}; known are {', '.join(map(str, known)) or 'none'}")
    return value


def known_options(function: Callable[P, R]) -> Callable[P, R]:
    """Makes an option that a function does not have a `UserError` that lists those it has."""
    known = tuple(signature(function).parameters)

    @wraps(function)
    def called(*args: P.args, **options: P.kwargs) -> R:
        for name in options:
            one_of(name, known, "option", f"of {function.__name__}")
        return function(*args, **options)

    return called


def _same(value: Any, known: Any) -> bool:
    """Whether two values are equal; True is not 1, and an array is equal to nothing."""
    try:
        return isinstance(value, bool) == isinstance(known, bool) and bool(value == known)
    except (RuntimeError, ValueError):
        return False
