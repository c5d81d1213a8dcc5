"""A terminal, a pipe or nothing at all: output is shown as well as it can be, and never ends a program."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

LOST = 2
"""Exit code where stdout could not be written, as for any file that cannot."""


class Stream:
    """A text stream that may stop taking text, as where its reader goes away or its disk is full: then it is dropped.

    Characters that its encoding does not have are replaced.

    Attributes:
        fault: what stopped it, if that was no reader who went away.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.fault: OSError | None = None
        self._unsure: list[str] = []  # written since the last flush that went well
        if hasattr(stream, "reconfigure"):  # what notebooks put in place of a stream has none
            stream.reconfigure(errors="replace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes as far as anyone takes it."""
        self._unsure.append(text)
        with self._until_stopped():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Passes on what was written."""
        with self._until_stopped():
            self._stream.flush()
            if self.fault is None:
                self._unsure.clear()

    @property
    def lost(self) -> str:
        """What may not have arrived, where something stopped the stream."""
        return "".join(self._unsure) if self.fault else ""

    @contextmanager
    def _until_stopped(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # Or what is still in the buffer would fail again when Python ends.
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())
            if not isinstance(error, BrokenPipeError):
                self.fault = error


@contextmanager
def forgiving() -> Iterator[None]:
    """Inside, stdout and stderr are such streams; where the caller has closed them, they lead nowhere.

    What stdout could not take, stderr shows at the end: it says what was done, and where that is kept.

    Raises:
        SystemExit: stdout could not take all.
    """
    _occupy_standard_numbers()
    before, stopped = (sys.stdout, sys.stderr), None
    with open(os.devnull, "w") as nowhere:
        sys.stdout, sys.stderr = shown, told = [Stream(stream or nowhere) for stream in before]
        try:
            yield
        except SystemExit as stop:  # as after --help
            stopped = stop
        finally:
            shown.flush()
            told.write(_of_what_is_lost(shown))
            told.flush()
            sys.stdout, sys.stderr = before
    if shown.fault:
        raise SystemExit(LOST)
    if stopped:
        raise stopped


def _of_what_is_lost(shown: Stream) -> str:
    if shown.fault is None:
        return ""
    return (
        f"error: cannot write to standard output: {shown.fault.strerror}; "
        f"the program went on without, and had this to say:\n{shown.lost}"
    )


def _occupy_standard_numbers() -> None:
    """Or the next file that is opened gets the number of a closed stream, and what libraries write there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
