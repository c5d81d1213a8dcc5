"""The journal of a run: each pair is on disk as soon as it is finished, so that a killed run can go on.

    journal.jsonl           a first line that says what is run, then a line per finished pair
    parts/PAIR.safetensors  the tensors of a pair: on disk before its line is, removed after the manifest

Processes that share a run keep one journal each: `journal.jsonl` for the first, `journal-1.jsonl` and so on
for the others. The first process takes over their lines when they are done, or when the run is resumed.

A line is an entry with its checksum, `{"check": …, "entry": {…}}`, appended and forced to disk (`journal_file.py`).
A pair without its line does not count; a torn last line is dropped on resuming, and its pair is run again. Where
the system supports it, a lock on the journal, released when the process ends, keeps a second process out.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from safetensors.torch import load, save
from torch import Tensor

from codi_lens.data.pairs import Pair
from codi_lens.files import sync_folder, write_through
from codi_lens.patching.result import Cell, PairOutcome, RunRecord
from codi_lens.records.journal_file import JournalFile, check_same, locked, read_entries
from codi_lens.records.journal_lines import (
    Entry,
    Kind,
    check_order,
    finished,
    header_of,
    taken_over,
)
from codi_lens.records.manifest import JOURNAL
from codi_lens.records.read import RecordError
from codi_lens.records.write import run_entry

PARTS = "parts"


class Journal:
    """The journal of one run, held open and locked.

    Attributes:
        folder: the run's.
        resumed: whether it was there before.
    """

    def __init__(
        self, folder: Path, header: Entry, *, resume: bool = False, index: int = 0
    ) -> None:
        """Opens the journal of a new run, or of a run to resume.

        Args:
            header: what is run, ready for JSON; how it was called may differ from what is there.
            index: of this process, where several share the run. Only process 0 resumes its journal; the others
                start new ones.

        Raises:
            RecordError: nothing to resume, a damaged line, or a run of something else; says what differs.
            UserError: another process is writing there, or there is a journal already.
        """
        self.folder, self.resumed = folder, resume
        self._path = folder / (f"journal-{index}.jsonl" if index else JOURNAL)
        self._file = JournalFile(self._path, resume=resume)
        try:
            (folder / PARTS).mkdir(exist_ok=True)
            if resume:
                self._file.go_on(header)
                for path in _beside(folder):
                    with path.open("r+b") as other:
                        unlock = locked(other, folder)
                    unlock()
                self.absorb()
            else:
                self._file.begin(header)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def torn(self) -> bool:
        """Whether a torn last line was dropped on opening."""
        return self._file.torn

    def add(self, outcome: PairOutcome) -> None:
        """Keeps a finished pair: when this returns, it is on disk."""
        content = save({name: t.clone() for name, t in _tensors(outcome).items()})
        write_through(self._part(outcome.pair.pair_id), content)
        sync_folder(self.folder / PARTS)
        self._file.append(
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
        self._file.append({"answers_of": pair_id, "texts": _texts_entry(texts)})

    def outcomes(self, pairs: Sequence[Pair]) -> dict[int, PairOutcome]:
        """The pairs that are done, by pair id; `pairs` are all pairs of the run.

        Raises:
            RecordError: the tensors of a pair are damaged or gone, lines are out of order, or of another run.
        """
        by_id = {pair.pair_id: pair for pair in pairs}
        done = {key[1]: entry for key, entry in self._finished().items() if key[0] == "pair"}
        if strange := [str(pair_id) for pair_id in done if pair_id not in by_id]:
            raise RecordError(
                f"{self._path} has lines of pairs that the run does not have: {', '.join(strange)}; "
                "delete them"
            )
        return {pair_id: self._outcome(entry, by_id[pair_id]) for pair_id, entry in done.items()}

    def answers(self) -> dict[int, dict[Cell, str]]:
        """What `add_answers` has kept, by pair id."""
        lines = self._finished().items()
        return {key[1]: _texts(entry["texts"]) for key, entry in lines if key[0] == "answers_of"}

    def absorb(self) -> None:
        """Takes over the lines of the journals beside this one, which no process writes any more.

        Raises:
            RecordError: lines out of order, or a journal of another run; nothing is taken over.
        """
        done, entries = self._finished(), read_entries(self._path)
        for entry in taken_over(entries[0], finished({self._path: entries}), done):
            self._file.append(entry)
        for path in _beside(self.folder):
            path.unlink()

    def _finished(self) -> dict[tuple[Kind, int], Entry]:
        """What is on disk, of all processes."""
        first = self.folder / JOURNAL
        journals = {path: read_entries(path) for path in (first, *_beside(self.folder))}
        header = journals[first][0]
        for path, entries in journals.items():
            if entries:  # a process may be killed in its first line
                check_same(self.folder, header_of(entries, path), header)
        found = finished(journals)
        check_order(first, journals[first])
        return found

    def _part(self, pair_id: int) -> Path:
        return self.folder / PARTS / f"{pair_id}.safetensors"

    def _outcome(self, entry: Entry, pair: Pair) -> PairOutcome:
        path = self._part(pair.pair_id)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RecordError(
                f"cannot read {path}, the tensors of a pair: {error.strerror}; {self._again(pair)}"
            ) from error
        if hashlib.sha256(content).hexdigest() != entry["part"]:
            raise RecordError(
                f"{path} is damaged: its digest is not the one in the journal; {self._again(pair)}"
            )
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

    def _again(self, pair: Pair) -> str:
        return f"pair {pair.pair_id} runs again without its line in {JOURNAL} and all behind it"


def _beside(folder: Path) -> list[Path]:
    """The journals of the processes but the first."""
    return sorted(folder.glob("journal-*.jsonl"))


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
