"""Pairs of a clean and a corrupted question: records, files, checks.

A file of pairs is a JSON list in one of two formats. *Prepared*, one entry a pair:

    [{"pair_id": 0,                                   integer, unique
      "clean":     {"question": "…", "answer": 24,    answer: a number, or text that is not blank
                    "operands": [3, 5, 2],            optional: the numbers in the question
                    "intermediates": [8, 16]},        optional: the results on the way, numbers or texts
      "corrupted": {"question": "…", "answer": 27, …},
      "kind": "add",                                  optional: which sort of problem
      "operand": "x",                                 optional: which operand was changed
      "change": {"clean": "3", "corrupted": "4",      optional: what stands in the clean question and what in its place,
                 "places": [17],                      where (characters from its beginning; several for words that are
                 "steps": 3, "enters": 1}}]           exchanged), steps of the solution, and in which it enters (from 1)

and *flat*, two entries a pair:

    [{"pair_id": 0, "variant": "clean", "question": "…", "answer": 24},
     {"pair_id": 0, "variant": "corrupted", "question": "…", "answer": 27}]

Flat entries may have `operands` and `intermediates` too. Other fields are ignored, and counted by name. An entry
with "variant" or "question" makes a file flat. Questions are kept to the letter: spaces are tokens too. A pair with
the same answer on both sides is marked (`Pair.same_answer`); `codi_lens.data.prepare` sets it aside.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from codi_lens.data.answers import Answer, as_stored, same_answer
from codi_lens.data.changes import Change, change_as_json, change_from
from codi_lens.data.fields import (
    are_answers,
    are_integers,
    is_answer,
    is_integer,
    is_object,
    is_question,
    is_side,
    is_text,
    shown,
)
from codi_lens.errors import UserError
from codi_lens.files import expand, parse_json, read_text, write_json
from codi_lens.shipped import EMBEDDED, MADE_PAIRS, PAIRS, made_pairs

PAIRS_FILE = "pairs.json"
SET_ASIDE_FILE = "set_aside.json"

Json: TypeAlias = Any
Record: TypeAlias = tuple[str, dict[str, Json]]
"""An entry of a file, and what to call it in an error."""

Side: TypeAlias = Literal["clean", "corrupted"]
SIDES: tuple[Side, Side] = ("clean", "corrupted")
VARIANT_FIELDS = {"question", "answer", "operands", "intermediates"}
ANSWER = "a number with a plain spelling, or text that is not blank"
FLAT_FIELDS = {"pair_id", "variant"}
PREPARED_FIELDS = {"pair_id", "clean", "corrupted", "kind", "operand", "change", "reason"}
CHANGE = "clean and corrupted text, a list of places, and whole numbers of steps and of the one it enters in"


@dataclass(frozen=True)
class Variant:
    """One question with its answer and, where known, the numbers that lead to it."""

    question: str
    answer: Answer
    operands: tuple[int, ...] = ()
    intermediates: tuple[Answer, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A clean question and a corrupted one, which differs from it only in what we study.

    `kind` names the sort of problem and `operand` the operand that was changed, where known; `change` says what
    was changed in the text.
    """

    pair_id: int
    clean: Variant
    corrupted: Variant
    kind: str | None = None
    operand: str | None = None
    change: Change | None = None

    @property
    def same_answer(self) -> bool:
        """Whether both questions have the same answer."""
        return same_answer(self.clean.answer, self.corrupted.answer)


def side_of(pair: Pair, side: Side) -> Variant:
    """The clean or the corrupted question of a pair."""
    return pair.clean if side == "clean" else pair.corrupted


def load_pairs(name_or_path: str | Path) -> list[Pair]:
    """All pairs of "toy" (the embedded model's own), of a file in either format, or of a folder.

    "toy-heldout" pairs up the embedded model's held-out problems. The two questions of such a pair differ
    in more than one number, and were not selected by how the model answers them. "gsm8k", "gsm8k-aug" and "prosqa"
    are counterfactual pairs made from these data sets, of the cache of `datasets` or the hub.

    A folder holds `pairs.json` and, if pairs were set aside, `set_aside.json`: both are read, so
    same-answer pairs are included and carry `same_answer`. Raises one UserError that lists every
    bad entry by pair id and field.
    """
    return read_pairs(name_or_path)[0]


def pair_as_json(pair: Pair) -> dict[str, Json]:
    """A pair in the prepared format; fields that are empty are left out."""
    entry: dict[str, Json] = {"pair_id": pair.pair_id}
    for side in SIDES:
        asked = side_of(pair, side)
        entry[side] = {"question": asked.question, "answer": as_stored(asked.answer)}
        results = [as_stored(result) for result in asked.intermediates]
        optional = {"operands": list(asked.operands), "intermediates": results}
        entry[side] |= {name: values for name, values in optional.items() if values}
    change = None if pair.change is None else change_as_json(pair.change)
    named = {"kind": pair.kind, "operand": pair.operand, "change": change}
    return entry | {name: value for name, value in named.items() if value is not None}


def pairs_digest(pairs: Iterable[Pair]) -> str:
    """SHA-256 of the pairs, in their order, as canonical JSON (sorted keys, no blanks)."""
    entries = [pair_as_json(pair) for pair in pairs]
    canonical = json.dumps(entries, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Write pairs in the prepared format; the file is there whole or not at all."""
    write_json({path: [pair_as_json(pair) for pair in pairs]})


def read_pairs(name_or_path: str | Path) -> tuple[list[Pair], dict[str, int]]:
    """The pairs as `load_pairs` gives them, and how often each field was left out."""
    name = str(name_or_path)
    path = PAIRS.get(name) or expand(name_or_path)
    if name in MADE_PAIRS:
        entries: list[Json] = made_pairs(name)
    else:
        files = [path]
        if path.is_dir():
            files = [path / PAIRS_FILE]
            files += [path / SET_ASIDE_FILE] if (path / SET_ASIDE_FILE).exists() else []
        entries = [entry for file in files for entry in _entries(file)]
    if not entries:
        raise UserError(f"{path} holds no pairs")
    reader = _Reader()
    pairs = reader.read(entries)
    if reader.problems:
        listing = "\n  ".join(reader.problems)
        raise UserError(f"{path} has {len(reader.problems)} fault(s):\n  {listing}")
    return pairs, dict(sorted(reader.ignored.items()))


def _entries(file: Path) -> list[Json]:
    try:
        content = read_text(file)
    except OSError as error:
        raise UserError(
            f"cannot read pairs from {file}: {error.strerror}; give a JSON file of pairs, a folder that holds "
            f"{PAIRS_FILE}, or a name: {', '.join((*EMBEDDED, *MADE_PAIRS))} or organism:NAME"
        ) from error
    try:
        entries = parse_json(content)
    except (ValueError, RecursionError) as error:
        fault = f"is not readable JSON: {error}" if content.strip() else "is empty"
        raise UserError(f"{file} {fault}; a JSON list of pairs would do") from error
    if not isinstance(entries, list):
        raise UserError(f"{file} holds {shown(entries)}; a JSON list of pairs would do")
    return entries


class _Reader:
    """Reads entries of either format and notes every problem instead of stopping at the first."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.ignored: Counter[str] = Counter()

    def read(self, entries: list[Json]) -> list[Pair]:
        """The pairs of a file; of use only if no problem was noted."""
        records: list[Record] = []
        for position, entry in enumerate(entries):
            if isinstance(entry, dict):
                records.append((f"entry {position}", entry))
            else:
                self._bad(f"entry {position}", "an object", entry)
        if any("variant" in entry or "question" in entry for _, entry in records):
            records = self._gather(records)
        return self._pairs(records)

    def _gather(self, records: list[Record]) -> list[Record]:
        """Flat entries as prepared ones; a lone variant becomes a pair that lacks a side."""
        gathered: dict[int, dict[str, Json]] = {}
        for place, entry in records:
            pair_id = self._field(place, entry, "pair_id", "an integer", is_integer)
            name = place if pair_id is None else f"pair {pair_id}"
            side = self._field(name, entry, "variant", '"clean" or "corrupted"', is_side)
            rest = {field: value for field, value in entry.items() if field not in FLAT_FIELDS}
            pair = gathered.setdefault(pair_id, {"pair_id": pair_id}) if pair_id is not None else {}
            if pair_id is None or side is None or side in pair:
                if side in pair:
                    self.problems.append(f"{name}, {side}: variant: given twice")
                where = f"{name}, {side}" if side else name
                self._variant(where, rest)  # the entry's other faults belong in the list too
            else:
                pair[side] = rest
        return [(f"pair {pair_id}", pair) for pair_id, pair in gathered.items()]

    def _pairs(self, records: list[Record]) -> list[Pair]:
        pairs: list[Pair] = []
        seen: set[int] = set()
        for place, entry in records:
            pair_id = self._field(place, entry, "pair_id", "an integer", is_integer)
            name = place if pair_id is None else f"pair {pair_id}"
            clean, corrupted = (
                self._variant(f"{name}, {side}", found) if found is not None else Variant("", 0)
                for side in SIDES
                for found in [self._field(name, entry, side, "question and answer", is_object)]
            )
            kind = self._field(name, entry, "kind", "text", is_text, optional=True)
            operand = self._field(name, entry, "operand", "text", is_text, optional=True)
            change = self._field(name, entry, "change", CHANGE, change_from, optional=True)
            self.ignored.update(entry.keys() - PREPARED_FIELDS)
            if pair_id in seen:
                self.problems.append(f"{name}: pair_id: given twice")
            if pair_id is not None:
                seen.add(pair_id)
                pairs.append(Pair(pair_id, clean, corrupted, kind, operand, change_from(change)))
        return pairs

    def _variant(self, name: str, entry: dict[str, Json]) -> Variant:
        question = self._field(name, entry, "question", "text that is not blank", is_question)
        answer = self._field(name, entry, "answer", ANSWER, is_answer)
        operands = self._field(
            name, entry, "operands", "a list of integers", are_integers, optional=True
        )
        results = self._field(
            name, entry, "intermediates", "a list of numbers and texts", are_answers, optional=True
        )
        self.ignored.update(entry.keys() - VARIANT_FIELDS)
        return Variant(
            question or "",
            as_stored(answer or 0),
            tuple(operands or ()),
            tuple(map(as_stored, results or ())),
        )

    def _field(
        self,
        name: str,
        entry: dict[str, Json],
        field: str,
        wanted: str,
        suits: Callable[[Json], object],
        optional: bool = False,
    ) -> Json:
        """A field's value, or None with the problem noted; optional fields may lack or be null."""
        value = entry.get(field)
        if field in entry and suits(value):
            return value
        if field not in entry and not optional:
            self.problems.append(f"{name}: {field}: missing, expected {wanted}")
        elif value is not None or not optional:
            self._bad(f"{name}: {field}", wanted, value)
        return None

    def _bad(self, where: str, wanted: str, value: Json) -> None:
        self.problems.append(f"{where}: expected {wanted}, found {shown(value)}")
