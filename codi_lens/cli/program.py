"""What a program is, and how it ends.

Exit codes: 0 done; 1 a check failed; 2 input that cannot be used, a file that cannot be read or written, or
whatever else went wrong; 130 interrupted. For 2 and 130 there is one message on stderr; --debug shows where
it came from.
"""

import argparse
import gc
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from codi_lens.cli.flags import HelpFormatter, check_numbers, check_texts
from codi_lens.cli.model_flags import as_flags
from codi_lens.cli.terminal import forgiving
from codi_lens.errors import UserError, command
from codi_lens.records.stopping import Interrupted

CHECK_FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130
ANNOUNCEMENTS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
"""What packages tell those who write code against them; of no use to those who run a program."""


@dataclass(frozen=True)
class Program:
    """A program: called with its arguments, it runs and returns its exit code.

    Attributes:
        name: as in `codi-lens NAME`.
        text: what it asks, in a line, and what it does. `--help` shows it.
        add_flags: adds its flags to a parser.
        body: what it does with its arguments. It returns False for a check that failed. The arguments as
            they were given are in `given`.
    """

    name: str
    text: str
    add_flags: Callable[[argparse.ArgumentParser], object]
    body: Callable[[argparse.Namespace], bool | None]

    @property
    def summary(self) -> str:
        """The first line of its text."""
        return self.text.splitlines()[0]

    def parser(self) -> argparse.ArgumentParser:
        """Its parser."""
        parser = argparse.ArgumentParser(
            prog=command(self.name), description=self.text, formatter_class=HelpFormatter
        )
        self.add_flags(parser)
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return parser

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Runs the program; what goes wrong becomes one message on stderr."""
        with forgiving(), warnings.catch_warnings():
            if not sys.warnoptions:  # else the user has said what to show
                for announcement in ANNOUNCEMENTS:
                    warnings.simplefilter("ignore", announcement)
            given = list(sys.argv[1:] if argv is None else argv)
            arguments = self.parser().parse_args(given)
            arguments.given = given
            try:
                check_texts(given)
                check_numbers(arguments)
                passed = self.body(arguments)
            except Exception as error:
                if arguments.debug:
                    raise
                print(f"error: {_message(error)}", file=sys.stderr)
                return UNUSABLE
            except KeyboardInterrupt as stop:
                if arguments.debug and not isinstance(stop, Interrupted):
                    raise
                print(str(stop) or "interrupted; nothing was written", file=sys.stderr)
                return INTERRUPTED
        return CHECK_FAILED if passed is False else 0


@contextmanager
def importing() -> Iterator[None]:
    """Around imports of much: what they bring stays, and is never searched for garbage.

    The searches take a fifth of the time of the imports, and later ones would go through all of it again.
    """
    before, was_on = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:
            gc.freeze()
        if was_on:
            gc.enable()


def _message(error: Exception) -> str:
    text = as_flags(str(error))
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    elif not isinstance(error, (UserError, OSError)):
        text = f"{type(error).__name__}: {text} (--debug shows where it comes from)"
    return "\n".join([text, *getattr(error, "__notes__", ())])
