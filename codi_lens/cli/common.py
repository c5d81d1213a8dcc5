"""What all experiment programs share: their flags, their folders, and how they end.

Exit codes: 0 done; 1 a check failed; 2 input that cannot be used, a file that cannot be read or written, or
whatever else went wrong; 130 interrupted. For 2 and 130 there is one message on stderr; --debug shows where it
came from.
"""

import argparse
import math
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi_lens.cli.model_flags import add_model_flags, as_flags, load_parts
from codi_lens.cli.resuming import OWN_OF_A_CALL, Interrupted, resumed, way_on
from codi_lens.cli.terminal import forgiving
from codi_lens.errors import UserError
from codi_lens.files import expand

if TYPE_CHECKING:
    from codi_lens import HookedCodi

CHECK_FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130
ANNOUNCEMENTS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
"""What packages tell those who write code against them; of no use to those who run a program."""
MOST_LABELS = 10_000
"""Of layers or positions: no model has as many."""


def path(text: str) -> Path:
    """A flag that is a path: `~` is the user's home, also where no shell has seen to it."""
    return expand(text)


def new_parser(name: str, description: str, **options: Any) -> argparse.ArgumentParser:
    """The parser of a program, with the flag that all have; `options` are argparse's."""
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}", description=description, **options
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def run(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    program: Callable[[argparse.Namespace], bool | None],
) -> int:
    """Runs a program on its arguments and returns its exit code.

    What went wrong becomes one message on stderr; a program returns False for a check that failed.
    """
    with forgiving(), warnings.catch_warnings():
        if not sys.warnoptions:  # else the user has said what to show
            for announcement in ANNOUNCEMENTS:
                warnings.simplefilter("ignore", announcement)
        arguments = parser.parse_args(argv)
        try:
            passed = program(arguments)
            sys.stdout.flush()
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


def _message(error: Exception) -> str:
    text = as_flags(str(error))
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    elif not isinstance(error, (UserError, OSError)):
        text = f"{type(error).__name__}: {text} (--debug shows where it comes from)"
    return "\n".join([text, *getattr(error, "__notes__", ())])


def run_experiment(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    experiment: Callable[[argparse.Namespace], None],
) -> int:
    """Runs an experiment that --resume can go on with, as `run` does."""
    given = list(sys.argv[1:] if argv is None else argv)

    def program(arguments: argparse.Namespace) -> None:
        arguments.given = given
        experiment(resumed(parser, arguments))

    return run(parser, given, program)


class CtrlC:
    """Inside, the first Ctrl-C only sets `pressed`; the second ends the program as ever.

    Signals are the main thread's: in another one nothing changes.
    """

    pressed = False

    def __enter__(self) -> "CtrlC":
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
        print("\nfinishing the batch in flight (Ctrl-C again: stop at once)", file=sys.stderr)


def experiment_parser(
    name: str, description: str, *, cells: bool = True
) -> argparse.ArgumentParser:
    """A parser with the flags that every experiment takes; `cells`: those that choose cells too."""
    parser = new_parser(name, description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="toy", help="'toy', a folder, or a hub id")
    parser.add_argument("--pairs", default="toy", help="'toy', or a file or folder of pairs")
    parser.add_argument("--limit", type=int, help="only the first LIMIT pairs (default: all)")
    if cells:
        _add_cell_flags(parser)
    parser.add_argument("--num-latents", type=int, help="thoughts (default: as trained)")
    parser.add_argument("--out", type=path, help="folder (default: a fresh one under results/)")
    add_model_flags(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads", type=int, help="on the CPU (default: as the model's width asks)"
    )
    return parser


def _add_cell_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the programs that patch: which cells, how, and how they are read."""
    from codi_lens.choices import ANSWER_STARTS, DIRECTIONS, FILTERS, SITES, WANDB_MODES

    add = parser.add_argument
    add("--layers", type=labels, help="such as 0-3,7, thought (default: all layers)")
    add("--positions", type=labels, help="such as bot,0-4,eot (default: all latents)")
    add("--site", default="resid_post", choices=SITES)
    add("--direction", default="denoise", choices=DIRECTIONS)
    add("--answer-start", default="stem", choices=ANSWER_STARTS)
    add("--min-gap", type=float, default=1.0, help="logits; recovery is null below it")
    add("--filter", default="none", choices=FILTERS, help="which pairs to keep")
    add("--include-same-answer", action="store_true", help="run these pairs too, apart")
    add("--batch-rows", type=int, help="runs side by side, at most (default: as fit in memory)")
    add("--wandb", default="off", choices=WANDB_MODES, help="tell Weights & Biases of the run")
    add(
        "--resume",
        type=path,
        metavar="RUN",
        help="go on with an unfinished run (its flags are known)",
    )


def labels(text: str) -> tuple[int | str, ...]:
    """Parses "bot,0-3,7" as bot, 0, 1, 2, 3, 7."""
    values: list[int | str] = []
    for part in text.split(","):
        if part in ("thought", "bot", "eot"):
            values.append(part)
            continue
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list such as bot,0-3,7")
        start, end = int(first), int(last if dash else first) + 1
        if end - start > MOST_LABELS:
            raise argparse.ArgumentTypeError(f"{text!r} is more than any model has")
        values += range(start, end)
    return tuple(values)


def check_numbers(arguments: argparse.Namespace) -> None:
    """Checks the flags that are numbers, before anything is loaded.

    Raises:
        UserError: names the flag and what it takes.
    """
    ones = ("limit", "batch_rows", "batch", "steps", "repeats", "sample", "threads")
    for name, least in {"seed": 0, "pairs": 0, **dict.fromkeys(ones, 1)}.items():
        value = getattr(arguments, name, None)
        most = 2**10 if name == "threads" else 2**63 - 1
        if isinstance(value, int) and not least <= value <= most:
            allowed = f"{least} or more" if value < least else f"{most} or less"
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must be {allowed}")
    gap = getattr(arguments, "min_gap", 0.0)
    if not 0 <= gap < math.inf:
        raise UserError(f"--min-gap is {gap}; it must be 0 or more")


def fresh_folder(asked: Path | None, name: str) -> Path:
    """Makes the folder for a run's results.

    Raises:
        UserError: it has something in it, or cannot be made.
    """
    folder = asked or Path("results") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        if asked is None:
            return _made_here(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
    check_unused(folder)
    return folder


def _made_here(folder: Path, number: int = 1) -> Path:
    """Makes a folder of this name, with a number where another program has just made that."""
    made = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
    try:
        made.mkdir(parents=True)
    except FileExistsError:
        return _made_here(folder, number + 1)
    return made


def check_unused(folder: Path | None) -> None:
    """Refuses a folder that has something in it; one that is not there is fine."""
    try:
        names = {path.name for path in folder.iterdir()} if folder and folder.exists() else set()
    except OSError as error:
        raise UserError(f"cannot use the folder {folder}: {error.strerror}") from error
    if names:
        way = way_on(folder) if folder else None
        hint = f", or go on with the run in it:\n  {way}" if way else ""
        raise UserError(f"the folder {folder} is not empty; give a fresh one as --out{hint}")


def load_model(arguments: argparse.Namespace, device: str | None = None) -> "HookedCodi":
    """The model that the flags ask for, on `device` if given.

    Warns of more thoughts than it was taught.
    """
    from codi_lens import HookedCodi
    from codi_lens.memory import keep_freed_memory
    from codi_lens.threads import choose_threads

    unsaid = {"num_latents": arguments.num_latents}
    codi = HookedCodi.from_parts(load_parts(arguments, device, unsaid=unsaid), arguments.model)
    keep_freed_memory()
    choose_threads(codi.model.cfg.d_model, arguments.threads)
    trained = codi.config.num_latents
    if codi.num_latents(arguments.num_latents) > trained:
        print(
            f"warning: --num-latents {arguments.num_latents} is more than the {trained} that the model "
            "was trained with; what it makes of the rest is not known",
            file=sys.stderr,
        )
    return codi


def as_json(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the user asked for, as a record keeps it."""
    plain = (str, int, float, bool, type(None))
    asked = {k: v for k, v in vars(arguments).items() if k not in OWN_OF_A_CALL}
    return {k: v if isinstance(v, plain) else str(v) for k, v in asked.items()}
