"""What all experiment programs share: their flags, their folders, and how they end.

Exit codes: 0 done; 1 a check failed; 2 input that cannot be used, or a file that cannot be read or written;
130 interrupted. For 2 and 130 there is one message on stderr; --debug shows where it came from.
"""

import argparse
import math
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi_lens.errors import UserError
from experiments.model_flags import add_model_flags, as_flags, load_parts

if TYPE_CHECKING:
    from codi_lens import HookedCodi

UNUSABLE, INTERRUPTED = 2, 130
OWN_OF_A_CALL = ("resume", "debug", "given")
"""Arguments that say nothing about what is run."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after what was finished has been written; the message says how to go on."""


def run(program: Callable[[], None], debug: bool = False) -> int:
    """Runs a program and returns its exit code; what went wrong becomes one message on stderr."""
    try:
        program()
    except (UserError, OSError) as error:
        if debug:
            raise
        print(f"error: {_message(error)}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt as stop:
        if debug and not isinstance(stop, Interrupted):
            raise
        print(str(stop) or "interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    return 0


def _message(error: UserError | OSError) -> str:
    text = as_flags(str(error))
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    return "\n".join([text, *getattr(error, "__notes__", ())])


def run_experiment(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    experiment: Callable[[argparse.Namespace], None],
) -> int:
    """Runs an experiment that --resume can go on with, as `run` does."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(given)
    arguments.given = given
    return run(lambda: experiment(resumed(parser, arguments)), arguments.debug)


def resumed(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments of the run that --resume names; without it, `arguments` themselves.

    Raises:
        UserError: nothing to resume there, another experiment, or a flag that says otherwise.
    """
    if arguments.resume is None:
        return arguments
    from codi_lens.journal import read_header

    header = read_header(arguments.resume)
    program = f"python -m experiments.{header['experiment']}"
    if program != parser.prog:
        raise UserError(f"{arguments.resume} is of another experiment; resume it with {program}")
    there = parser.parse_args(header["arguments"])
    there.out, there.resume, there.debug = arguments.resume, arguments.resume, arguments.debug
    there.given = header["arguments"]
    # What was not given now keeps the mark that stood in its place.
    absent = object()
    marked = argparse.Namespace(**dict.fromkeys(vars(arguments), absent))
    here = vars(parser.parse_args(arguments.given, marked))
    differing = [
        f"--{name.replace('_', '-')} (there {getattr(there, name)}, here {value})"
        for name, value in here.items()
        if name not in OWN_OF_A_CALL and value is not absent and value != getattr(there, name)
    ]
    if differing:
        raise UserError(f"{arguments.resume} cannot be resumed: {'; '.join(differing)}")
    return there


@contextmanager
def resume_hint(command: str) -> Iterator[None]:
    """Adds how to go on to what goes wrong inside, unless it would go wrong again."""
    try:
        yield
    except (UserError, Interrupted):
        raise
    except Exception as error:
        error.add_note(f"what is finished is kept; go on with\n  {command}")
        raise
    except KeyboardInterrupt as stop:
        raise Interrupted(f"interrupted; go on with\n  {command}") from stop


class CtrlC:
    """Inside, the first Ctrl-C only sets `pressed`; the second ends the program as ever."""

    pressed = False

    def __enter__(self) -> "CtrlC":
        self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _press(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        self.pressed = True
        print("\nfinishing the batch in flight (Ctrl-C again: stop at once)", file=sys.stderr)


def experiment_parser(
    name: str, description: str, *, cells: bool = True
) -> argparse.ArgumentParser:
    """A parser with the flags that every experiment takes; `cells`: those that choose cells too."""
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default="toy", help="'toy', a folder, or a hub id")
    parser.add_argument("--pairs", default="toy", help="'toy', or a file or folder of pairs")
    parser.add_argument("--limit", type=int, help="only the first LIMIT pairs (default: all)")
    if cells:
        _add_cell_flags(parser)
    parser.add_argument("--num-latents", type=int, help="thoughts (default: as trained)")
    parser.add_argument("--out", type=Path, help="folder (default: a fresh one under results/)")
    add_model_flags(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
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
        type=Path,
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
        values += range(int(first), int(last if dash else first) + 1)
    return tuple(values)


def check_numbers(arguments: argparse.Namespace) -> None:
    """Checks the flags that are numbers, before anything is loaded.

    Raises:
        UserError: names the flag and what it takes.
    """
    for name, least in (("limit", 1), ("batch_rows", 1), ("batch", 1), ("seed", 0)):
        value = getattr(arguments, name, None)
        if value is not None and not least <= value < 2**63:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} is {value}; it must be {least} or more")
    gap = getattr(arguments, "min_gap", 0.0)
    if not 0 <= gap < math.inf:
        raise UserError(f"--min-gap is {gap}; it must be 0 or more")


def fresh_folder(asked: Path | None, name: str) -> Path:
    """Makes the folder for a run's results.

    Raises:
        UserError: it has something in it, or cannot be made.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = asked or Path("results") / f"{name}-{stamp}"
    number = 2
    while asked is None and folder.exists():
        folder = Path("results") / f"{name}-{stamp}-{number}"
        number += 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
    check_unused(folder)
    return folder


def check_unused(folder: Path | None) -> None:
    """Refuses a folder that has something in it; one that is not there is fine."""
    try:
        names = {path.name for path in folder.iterdir()} if folder and folder.exists() else set()
    except OSError as error:
        raise UserError(f"cannot use the folder {folder}: {error.strerror}") from error
    if names:
        run = "journal.jsonl" in names
        hint = f"; if it is an unfinished run, go on with --resume {folder}" if run else ""
        raise UserError(f"the folder {folder} is not empty; give a fresh one as --out{hint}")


def load_model(arguments: argparse.Namespace, device: str | None = None) -> "HookedCodi":
    """The model that the flags ask for, on `device` if given.

    Warns of more thoughts than it was taught.
    """
    from codi_lens import HookedCodi
    from codi_lens.memory import keep_freed_memory

    unsaid = {"num_latents": arguments.num_latents}
    codi = HookedCodi.from_parts(load_parts(arguments, device, unsaid=unsaid), arguments.model)
    keep_freed_memory()
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
