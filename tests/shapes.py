"""jaxtyping's shapes, checked at run time."""

from collections.abc import Callable
from inspect import isclass, isfunction
from pathlib import Path
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray

ROOT = Path(__file__).parent.parent
CHECKED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "codi_lens").rglob("*.py")
    if "from jaxtyping import" in path.read_text()
]
"""Modules that declare shapes, which must hold in every call that a test makes."""


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its arrays checked by beartype: an axis's name stands for one size in a call.

    Other annotations are left to mypy. Tests break them on purpose, to see the message that a user gets.
    """
    function.__annotations__ = {
        name: hint for name, hint in function.__annotations__.items() if _has_shape(hint)
    }
    return beartype(function) if function.__annotations__ else function


def _has_shape(hint: Any) -> bool:
    """Whether an annotation is an array's, or holds one."""
    own = isclass(hint) and issubclass(hint, AbstractArray)
    return own or any(map(_has_shape, get_args(hint)))


def where_shapes_are(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    """`jaxtyping.jaxtyped`, for functions that declare shapes alone: its wrapper takes longer than most calls."""

    def decorator(*, typechecker: Any) -> Callable[[Any], Any]:
        decorate = jaxtyped(typechecker=typechecker)

        def decorated(thing: Any) -> Any:
            function = thing.fget if isinstance(thing, property) else thing
            hints = function.__annotations__.values() if isfunction(function) else [AbstractArray]
            return decorate(thing) if any(map(_has_shape, hints)) else thing

        return decorated

    return decorator
