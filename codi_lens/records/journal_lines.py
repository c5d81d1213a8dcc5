"""The lines of a journal: entries with their checksums, in the order in which a run writes them."""

import json
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from codi_lens.files import parse_json
from codi_lens.records.manifest import SCHEMA_VERSION
from codi_lens.records.read import RecordError

Entry = dict[str, Any]
Kind = Literal["pair", "answers_of"]
Key = tuple[Kind, int]
KINDS: tuple[Kind, ...] = ("pair", "answers_of")
"""Of the lines behind the first: a field of this name holds the pair's id."""


def encode(entry: Entry) -> bytes:
    """A line of the journal. Floats come back as they were; NaN and infinity are refused."""
    line = {"check": _check(entry), "entry": entry}
    return json.dumps(line, allow_nan=False).encode() + b"\n"


def decode(content: bytes, path: Path) -> tuple[list[Entry], int]:
    """The entries of a journal, and the number of bytes they take; a torn last line follows these.

    Raises:
        RecordError: a damaged line that is not the last; names file and line.
    """
    *lines, tail = content.split(b"\n")
    entries: list[Entry] = []
    for number, line in enumerate(lines, start=1):
        entry = _entry(line)
        if entry is None:
            if number == len(lines) and not tail:
                break
            raise RecordError(
                f"{path}, line {number} is damaged: what it says does not fit its checksum; the pairs "
                "before it can be kept by deleting it and all lines behind it"
            )
        entries.append(entry)
    return entries, sum(len(line) + 1 for line in lines[: len(entries)])


def _entry(line: bytes) -> Entry | None:
    """What a line holds, or None for a damaged one."""
    try:
        found = parse_json(line)
        entry = found["entry"]
        whole = isinstance(entry, dict) and found["check"] == _check(entry)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return entry if whole else None


def _check(entry: Entry) -> str:
    canonical = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(canonical.encode()):08x}"


def _as_written(entry: Entry) -> Entry:
    return {name: value for name, value in entry.items() if name != "ahead"}


def header_of(entries: Sequence[Entry], path: Path) -> Entry:
    """The first line: what is run.

    Raises:
        RecordError: there is none, another line stands in its place, or it has another schema version.
    """
    if not entries:
        raise RecordError(f"{path} has no whole first line: nothing was finished, so start afresh")
    if any(kind in entries[0] for kind in KINDS):
        raise RecordError(
            f"{path}, line 1 is a pair's; the line that says what is run must be first"
        )
    found = entries[0].get("schema_version")
    if found != SCHEMA_VERSION:
        raise RecordError(
            f"{path.parent} cannot be resumed: schema_version (there {found}, here {SCHEMA_VERSION})"
        )
    return entries[0]


def finished(journals: Mapping[Path, Sequence[Entry]]) -> dict[tuple[Kind, int], Entry]:
    """The finished pairs and answers in the lines after the headers, by kind and pair id, in order.

    A journal may repeat lines of an earlier one, if a process was killed while taking them over.

    Raises:
        RecordError: a second first line, a second line of a pair, or answers before their pair.
    """
    found: dict[tuple[Kind, int], Entry] = {}
    places: dict[tuple[Kind, int], tuple[Path, int]] = {}
    for path, entries in journals.items():
        for number, entry in enumerate(entries[1:], start=2):
            place = f"{path}, line {number}"
            kind = next((kind for kind in KINDS if kind in entry), None)
            if kind is None:
                raise RecordError(f"{place} is not a pair's: two journals stand in one file")
            key = kind, entry[kind]
            if key in found:
                first, at = places[key]
                if first != path and _as_written(found[key]) == _as_written(entry):
                    continue
                raise RecordError(
                    f"{place} is of pair {key[1]} again, after {first.name}, line {at}; "
                    "delete the one that should not be there"
                )
            if kind == "answers_of" and ("pair", key[1]) not in found:
                raise RecordError(
                    f"{place} has answers of pair {key[1]} before the pair's own line"
                )
            found[key], places[key] = entry, (path, number)
    return found


def check_order(path: Path, entries: Sequence[Entry]) -> None:
    """Checks the order of the pairs' lines in the first journal: always of the first pair that is not there.

    Lines that were taken over from other processes, which begin further on, are "ahead".

    Raises:
        RecordError: names the first line that stands where no run writes it.
    """
    missing = dict.fromkeys(entries[0].get("pair_ids", ()))
    for number, entry in enumerate(entries[1:], start=2):
        pair_id = entry.get("pair")
        if pair_id not in missing:
            continue
        due = next(iter(missing))
        if pair_id != due and not entry.get("ahead"):
            raise RecordError(
                f"{path}, line {number} is of pair {pair_id}, where that of pair {due} is due: a line was "
                "moved or deleted; put it back, or delete this line and all lines behind it"
            )
        del missing[pair_id]


def taken_over(header: Entry, own: Collection[Key], done: Mapping[Key, Entry]) -> Iterator[Entry]:
    """The lines that the first journal lacks, marked where pairs before theirs are not there yet."""
    missing = dict.fromkeys(i for i in header.get("pair_ids", ()) if ("pair", i) not in own)
    for key, entry in done.items():
        if key in own:
            continue
        ahead = key[0] == "pair" and bool(missing) and next(iter(missing)) != key[1]
        if key[0] == "pair":
            missing.pop(key[1], None)
        yield entry | ({"ahead": True} if ahead else {})
