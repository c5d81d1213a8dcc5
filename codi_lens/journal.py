"""The journal of a run: every finished pair on disk as it comes, so that a killed run can go on.

    journal.jsonl           a first line that says what is run, then a line per finished pair
    parts/PAIR.safetensors  the tensors of a pair: on disk before its line is, removed after the manifest

Processes that share a run keep a journal each, `journal-1.jsonl` and so on beside the first's, which takes
their lines over when they are done, or when the run is resumed.

A line is an entry with its checksum, `{"check": …, "entry": {…}}`, appended and forced to disk. Only what has
a line is believed. Whatever ends the process, it leaves whole lines and at most a torn last one, which
is dropped on resuming: the pair is then run again. A lock on the journal, which dies with its process,
keeps a second process out.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from safetensors.torch import load, save
from torch import Tensor

from codi_lens.errors import UserError
from codi_lens.files import sync_folder, write_through
from codi_lens.manifest import SCHEMA_VERSION, differences
from codi_lens.outcomes import Cell, PairOutcome, RunRecord
from codi_lens.pairs import Pair
from codi_lens.results import RecordError
from codi_lens.results_writer import run_entry

JOURNAL = "journal.jsonl"
PARTS = "parts"
Entry = dict[str, Any]


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
        found = json.loads(line)
        entry = found["entry"]
        whole = isinstance(entry, dict) and found["check"] == _check(entry)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return entry if whole else None


def _check(entry: Entry) -> str:
    canonical = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(canonical.encode()):08x}"


def read_header(folder: Path) -> Entry:
    """What the journal in `folder` says is run there.

    Raises:
        RecordError: no journal, one without a whole first line, or one of another schema version.
    """
    path = folder / JOURNAL
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{folder} is not a run to resume: no {JOURNAL} ({error})") from error
    return _header(decode(content, path)[0], path)


def _header(entries: Sequence[Entry], path: Path) -> Entry:
    if not entries:
        raise RecordError(f"{path} has no whole first line: nothing was finished, so start afresh")
    found = entries[0].get("schema_version")
    if found != SCHEMA_VERSION:
        raise RecordError(
            f"{path.parent} cannot be resumed: schema_version (there {found}, here {SCHEMA_VERSION})"
        )
    return entries[0]


class Journal:
    """The journal of one run, held open and locked.

    Attributes:
        folder: the run's.
        torn: whether a torn last line was dropped on opening.
    """

    def __init__(
        self, folder: Path, header: Entry, *, resume: bool = False, index: int = 0
    ) -> None:
        """Opens the journal of a new run, or that of one which is to go on.

        Args:
            header: what is run, ready for JSON; its "arguments" may differ from the ones there.
            index: of this process, where several share the run; but for 0 its journal is a new one.

        Raises:
            RecordError: nothing to resume, a damaged line, or a run of something else; says what differs.
            UserError: another process is writing there, or there is a journal already.
        """
        self.folder = folder
        self.torn = False
        self._path = folder / (f"journal-{index}.jsonl" if index else JOURNAL)
        header = json.loads(json.dumps(header))
        self._file = self._open(resume)
        try:
            _lock(self._file, folder)
            (folder / PARTS).mkdir(exist_ok=True)
            content = self._file.read()
            entries, self._end = decode(content, self._path)
            if resume:
                self._check_header(entries, header)
                self.torn = self._end < len(content)
                self._cut()
                for path in _beside(folder):
                    with path.open("rb") as other:
                        _lock(other, folder)
                self.absorb()
            else:
                self._append(header)
                sync_folder(folder)
        except BaseException:
            self._file.close()
            raise

    def _open(self, resume: bool) -> Any:
        try:
            return self._path.open("r+b" if resume else "x+b", buffering=0)
        except FileExistsError as error:
            raise UserError(
                f"there is a run in {self.folder} already; give a fresh folder"
            ) from error
        except FileNotFoundError as error:
            raise RecordError(f"{self.folder} is not a run to resume: no {JOURNAL}") from error

    def _check_header(self, entries: Sequence[Entry], header: Entry) -> None:
        there = {**_header(entries, self._path), "arguments": None}
        differing = list(differences(there, {**header, "arguments": None}))
        if differing:
            raise RecordError(f"{self.folder} cannot be resumed: " + "; ".join(differing))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, outcome: PairOutcome) -> None:
        """Keeps a finished pair: when this returns, it is on disk."""
        content = save({name: t.clone() for name, t in _tensors(outcome).items()})
        write_through(self._part(outcome.pair.pair_id), content)
        sync_folder(self.folder / PARTS)
        self._append(
            {
                "pair": outcome.pair.pair_id,
                "base": run_entry(outcome.base),
                "source": run_entry(outcome.source),
                "donor": outcome.donor,
                "texts": _texts_entry(outcome.texts),
                "metrics": list(outcome.metrics),
                "part": hashlib.sha256(content).hexdigest(),
            }
        )

    def add_answers(self, pair_id: int, texts: Mapping[Cell, str]) -> None:
        """Keeps the answers of single cells, which are decoded when all pairs are done."""
        self._append({"answers_of": pair_id, "texts": _texts_entry(texts)})

    def outcomes(self, pairs: Sequence[Pair]) -> dict[int, PairOutcome]:
        """The pairs that are done, by pair id; `pairs` are all pairs of the run.

        Raises:
            RecordError: the tensors of a pair are damaged or gone.
        """
        by_id = {pair.pair_id: pair for pair in pairs}
        entries = [entry for entry in self._entries() if "pair" in entry]
        return {entry["pair"]: self._outcome(entry, by_id[entry["pair"]]) for entry in entries}

    def answers(self) -> dict[int, dict[Cell, str]]:
        """What `add_answers` has kept, by pair id."""
        return {e["answers_of"]: _texts(e["texts"]) for e in self._entries() if "answers_of" in e}

    def absorb(self) -> None:
        """Takes over the lines of the journals beside this one, which no process writes any more."""
        for path in _beside(self.folder):
            for entry in decode(path.read_bytes(), path)[0][1:]:
                self._append(entry)
            path.unlink()

    def _entries(self) -> list[Entry]:
        """What is on disk, of all processes."""
        paths = [self.folder / JOURNAL, *_beside(self.folder)]
        return [entry for path in paths for entry in decode(path.read_bytes(), path)[0]]

    def _part(self, pair_id: int) -> Path:
        return self.folder / PARTS / f"{pair_id}.safetensors"

    def _outcome(self, entry: Entry, pair: Pair) -> PairOutcome:
        path = self._part(pair.pair_id)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RecordError(f"cannot read {path}, the tensors of a pair: {error}") from error
        if hashlib.sha256(content).hexdigest() != entry["part"]:
            raise RecordError(f"{path} is damaged: its digest is not the one in the journal")
        tensors = load(content)
        return PairOutcome(
            pair,
            {name: tensors[f"metrics/{name}"] for name in entry["metrics"]},
            _run(entry["base"]),
            _run(entry["source"]),
            activations=tensors["activations"],
            generated=tensors.get("generated"),
            texts=_texts(entry["texts"]),
            donor=entry["donor"],
        )

    def _append(self, entry: Entry) -> None:
        """Appends a line; where that fails, the journal is left as it was."""
        rest = memoryview(encode(entry))
        end = self._end + len(rest)
        try:
            while rest:
                written = self._file.write(rest)
                if not written:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
                rest = rest[written:]
            os.fsync(self._file.fileno())
        except OSError:
            self._cut()
            raise
        self._end = end

    def _cut(self) -> None:
        """Drops what follows the last whole line."""
        self._file.truncate(self._end)
        self._file.seek(self._end)


def _beside(folder: Path) -> list[Path]:
    """The journals of the processes but the first."""
    return sorted(folder.glob("journal-*.jsonl"))


def _lock(file: IO[bytes], folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"another process is writing {folder}; let it finish") from error


def remove_parts(folder: Path) -> None:
    """Removes the tensors of single pairs, which a finished record holds in its own files."""
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def _tensors(outcome: PairOutcome) -> dict[str, Tensor]:
    tensors = {f"metrics/{name}": tensor for name, tensor in outcome.metrics.items()}
    tensors["activations"] = outcome.activations
    return tensors if outcome.generated is None else tensors | {"generated": outcome.generated}


def _run(entry: Entry) -> RunRecord:
    metrics = {n: float("nan") if v is None else v for n, v in entry["metrics"].items()}
    return RunRecord(metrics, entry["answer_text"], entry["correct"])


def _texts_entry(texts: Mapping[Cell, str]) -> list[tuple[Cell, str]]:
    return sorted(texts.items())


def _texts(entry: Sequence[tuple[Sequence[int], str]]) -> dict[Cell, str]:
    return {tuple(cell): text for cell, text in entry}
