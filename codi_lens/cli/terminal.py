"""A terminal, a pipe or nothing at all: output is shown as well as it can be, and never ends a program."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class Stream:
    """A text stream whose reader may go away, or whose disk be full: what is written after that is dropped.

    Characters that its encoding does not have are replaced.

    Attributes:
        fault: why something is lost that may have a reader.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.fault: OSError | None = None
        if hasattr(stream, "reconfigure"):  # what notebooks put in place of a stream has none
            stream.reconfigure(errors="replace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes as far as it can."""
        with self._until_closed():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Passes on what was written, as far as it can."""
        with self._until_closed():
            self._stream.flush()

    @contextmanager
    def _until_closed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # Or what is still in the buffer would fail again when Python ends.
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())
            if not isinstance(error, BrokenPipeError):
                self.fault = error


def check_shown() -> None:
    """Raises OSError if something that was written to stdout is lost, though someone may read it."""
    if sys.stdout is None:  # all processes of a run but the first print nothing
        return
    sys.stdout.flush()
    fault: OSError | None = getattr(sys.stdout, "fault", None)
    if fault is not None:
        raise OSError(fault.errno, fault.strerror, "standard output")


@contextmanager
def forgiving() -> Iterator[None]:
    """Inside, stdout and stderr are such streams; where the caller has closed them, they lead nowhere."""
    _occupy_standard_numbers()
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        sys.stdout, sys.stderr = (Stream(stream or nowhere) for stream in before)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def _occupy_standard_numbers() -> None:
    """Or the next file that is opened gets the number of a closed stream, and what libraries write there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
