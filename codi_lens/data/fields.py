"""What the fields of a file of pairs may be, and how an error shows a value."""

import json
from typing import Any

from codi_lens.data.answers import spell
from codi_lens.errors import UserError


def is_object(value: Any) -> bool:
    """Whether it is an object of JSON."""
    return isinstance(value, dict)


def is_side(value: Any) -> bool:
    """Whether it names a side of a pair."""
    return value in ("clean", "corrupted")


def is_integer(value: Any) -> bool:
    """Whether it is an integer, and no boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def are_integers(value: Any) -> bool:
    """Whether it is a list of integers."""
    return isinstance(value, list) and all(map(is_integer, value))


def is_text(value: Any) -> bool:
    """Text that can be encoded: JSON can also spell half a surrogate pair, which is no character."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def is_question(value: Any) -> bool:
    """Whether it is text that is not blank."""
    return is_text(value) and bool(value.strip())


def is_answer(value: Any) -> bool:
    """Whether it is a number or text with a spelling."""
    try:
        return isinstance(value, (int, float, str)) and bool(spell(value))
    except UserError:
        return False


def are_answers(value: Any) -> bool:
    """Whether it is a list of numbers and texts."""
    return isinstance(value, list) and all(map(is_answer, value))


def shown(value: Any) -> str:
    """A value in short, for an error."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
