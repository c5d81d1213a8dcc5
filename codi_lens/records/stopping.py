"""Stopping a run with Ctrl-C: the batch in flight is finished, and what is done is kept."""

import signal
import sys
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from codi_lens.patching.result import Sweep


class Interrupted(KeyboardInterrupt):
    """A run was stopped with Ctrl-C, after what was finished had been written.

    Attributes:
        sweep: the pairs that were finished; None where there are none.
    """

    def __init__(self, message: str, sweep: "Sweep | None" = None) -> None:
        super().__init__(message)
        self.sweep = sweep


class CtrlC:
    """Inside, the first Ctrl-C only sets `pressed`; the second stops at once, as ever.

    Signals are the main thread's: in another one nothing changes.
    """

    pressed = False

    def __enter__(self) -> Self:
        self._listens = threading.current_thread() is threading.main_thread()
        if self._listens:
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self._listens:
            signal.signal(signal.SIGINT, self._before)

    def _press(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        self.pressed = True
        sys.stderr.write("\nfinishing the batch in flight (Ctrl-C again: stop at once)\n")
