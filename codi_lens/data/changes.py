"""What was changed in a question, as a pair and its files have it."""

from dataclasses import dataclass
from typing import Any

from codi_lens.data.fields import are_integers, is_integer, is_text


@dataclass(frozen=True)
class Change:
    """What the corrupted question has otherwise, and where that comes in.

    Attributes:
        clean: the text in the clean question, such as "16".
        corrupted: what stands in its place, "17".
        places: where the clean question has it, in characters from its beginning. Where two words are
            exchanged, the places of both.
        steps: how many the solution has.
        enters: the first step that uses it, from 1.
    """

    clean: str
    corrupted: str
    places: tuple[int, ...]
    steps: int
    enters: int


def change_as_json(change: Change) -> dict[str, Any]:
    """A change as files have it."""
    return {**vars(change), "places": list(change.places)}


def change_from(entry: Any) -> Change | None:
    """The change that an entry of a file is; None for an entry that is none."""
    if not isinstance(entry, dict) or entry.keys() != set(Change.__dataclass_fields__):
        return None
    texts, counts = (entry["clean"], entry["corrupted"]), (entry["steps"], entry["enters"])
    suits = all(map(is_text, texts)) and all(map(is_integer, counts))
    if not suits or not are_integers(entry["places"]):
        return None
    return Change(*texts, tuple(entry["places"]), *counts)
