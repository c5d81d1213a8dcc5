"""What all experiment programs share: their flags, their folders, and how they speak of errors."""

import argparse
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi_lens.errors import UserError

if TYPE_CHECKING:
    from codi_lens import HookedCodi

DTYPES = ("float32", "bfloat16", "float16", "float64")


def run(program: Callable[[], None], debug: bool = False) -> int:
    """Runs a program; 0, or 2 with one message on stderr for input that cannot be used."""
    try:
        program()
    except UserError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


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
    parser.add_argument("--device", default="cpu", help="'auto', 'cpu', 'cuda', …")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_cell_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the programs that patch: which cells, how, and how they are read."""
    from codi_lens.choices import ANSWER_STARTS, DIRECTIONS, FILTERS, SITES

    add = parser.add_argument
    add("--layers", type=labels, help="such as 0-3,7, thought (default: all layers)")
    add("--positions", type=labels, help="such as bot,0-4,eot (default: all latents)")
    add("--site", default="resid_post", choices=SITES)
    add("--direction", default="denoise", choices=DIRECTIONS)
    add("--answer-start", default="stem", choices=ANSWER_STARTS)
    add("--min-gap", type=float, default=1.0, help="logits; recovery is null below it")
    add("--filter", default="none", choices=FILTERS, help="which pairs to keep")
    add("--include-same-answer", action="store_true", help="run these pairs too, apart")
    add("--batch-rows", type=int, default=256, help="runs side by side, at most")


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
        occupied = any(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
    if occupied:
        raise UserError(f"the folder {folder} is not empty; give a fresh one as --out")
    return folder


def positive_limit(limit: int | None) -> int | None:
    """Checks --limit."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit is {limit}; it must be 1 or more")
    return limit


def load_model(arguments: argparse.Namespace) -> "HookedCodi":
    """The model that --model, --device and --dtype ask for."""
    import torch

    from codi_lens import HookedCodi

    dtype = getattr(torch, arguments.dtype)
    return HookedCodi.from_pretrained(arguments.model, device=arguments.device, dtype=dtype)


def as_json(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the user asked for, as a record keeps it."""
    plain = (str, int, float, bool, type(None))
    return {k: v if isinstance(v, plain) else str(v) for k, v in vars(arguments).items()}
