"""A journal's file: held open and locked, and grown line by line, each forced to disk before the next.

However the process ends, all lines are whole except perhaps the last; a torn one is dropped on going on.
"""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from codi_lens.errors import UserError
from codi_lens.files import lock, sync_folder
from codi_lens.records.journal_lines import Entry, decode, encode, header_of
from codi_lens.records.manifest import JOURNAL, differences
from codi_lens.records.read import RecordError

UNDECISIVE = ("arguments", "working_folder", "pair_ids")
"""Of a header: how the run was called, and what the digest of the pairs says already."""


class JournalFile:
    """One journal.

    Attributes:
        path: of the file.
        entries: those that were there on opening.
        end: where the last whole line ends, in bytes.
        torn: whether a torn last line was dropped.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        """Opens and locks the file of a new run, or of a run to resume.

        Raises:
            RecordError: nothing to resume, or a damaged line.
            UserError: another process is writing there, or there is a journal already.
        """
        self.path, self.torn = path, False
        self._unlock: Callable[[], None] = lambda: None
        self._file = self._open(resume)
        try:
            self._unlock = locked(self._file, path.parent)
            content = self._file.read()
            self.entries, self.end = decode(content, path)
            self._more = self.end < len(content)
        except BaseException:
            self.close()
            raise

    def _open(self, resume: bool) -> Any:
        try:
            return self.path.open("r+b" if resume else "x+b", buffering=0)
        except FileExistsError as error:
            raise UserError(
                f"there is a run in {self.path.parent} already; give a fresh folder"
            ) from error
        except FileNotFoundError as error:
            raise RecordError(f"{self.path.parent} is not a run to resume: no {JOURNAL}") from error

    def close(self) -> None:
        """Closes and unlocks the file."""
        self._file.close()
        self._unlock()

    def begin(self, header: Entry) -> None:
        """Writes the first line: what is run, ready for JSON."""
        self.append(header)
        sync_folder(self.path.parent)

    def go_on(self, header: Entry) -> None:
        """Checks that the run there is this one, and drops a torn last line.

        Raises:
            RecordError: it is a run of something else; says what differs.
        """
        check_same(self.path.parent, header_of(self.entries, self.path), header)
        self.torn = self._more
        self._cut()

    def append(self, entry: Entry) -> None:
        """Appends a line, which is on disk when this returns; where that fails, the file is left as it was."""
        rest = memoryview(encode(entry))
        end = self.end + len(rest)
        try:
            while rest:
                written = self._file.write(rest)
                if not written:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                rest = rest[written:]
            os.fsync(self._file.fileno())
        except OSError:
            self._cut()
            raise
        self.end = end

    def _cut(self) -> None:
        """Drops what follows the last whole line."""
        self._file.truncate(self.end)
        self._file.seek(self.end)


def read_entries(path: Path) -> list[Entry]:
    """The whole lines of a journal. Raises RecordError for a damaged one that is not the last."""
    return decode(path.read_bytes(), path)[0]


def read_header(folder: Path) -> Entry:
    """What the journal in `folder` says is run there.

    Raises:
        RecordError: no journal, one without a whole first line, or one of another schema version.
    """
    path = folder / JOURNAL
    try:
        entries = read_entries(path)
    except OSError as error:
        raise RecordError(
            f"{folder} is not a run to resume: no {JOURNAL} ({error.strerror})"
        ) from error
    return header_of(entries, path)


def check_same(folder: Path, there: Entry, here: Entry) -> None:
    """Checks that the run in `folder`, by its journal's first line, is the one that is asked for.

    Raises:
        RecordError: says what differs.
    """
    as_kept = json.loads(json.dumps(here))
    there, here = ({**of, **dict.fromkeys(UNDECISIVE)} for of in (there, as_kept))
    if differing := "; ".join(differences(there, here)):
        raise RecordError(f"{folder} cannot be resumed: {differing}")


def locked(file: IO[bytes], folder: Path) -> Callable[[], None]:
    """Locks a file of the run in `folder`; returns what unlocks it.

    Raises:
        UserError: another process has locked it.
    """
    try:
        return lock(file)
    except BlockingIOError as error:
        raise UserError(f"another process is writing {folder}; let it finish") from error
