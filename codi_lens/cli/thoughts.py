"""What does each thought of one question say, read and do? A page to look at, and to send to a friend.

Asks one question (or the clean question of a pair, whose activations are then patched into the corrupted one) and writes a page that
opens without a network: top tokens by layer and thought, attention back to tokens and thoughts, the answer after each thought, and
what becomes of it without one.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from codi_lens.cli import flags
from codi_lens.cli.asking import pairs_name
from codi_lens.cli.model_flags import add_model_flags, load_model
from codi_lens.cli.program import Program
from codi_lens.errors import UserError

if TYPE_CHECKING:
    from codi_lens import Pair
    from codi_lens.analysis.thoughts import Thoughts


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    add = parser.add_argument
    add("question", nargs="?", help="to ask; or none, with --pair")
    add("--pair", type=int, metavar="ID", help="a pair of --pairs, by its pair_id (default: none)")
    flags.add_model(parser)
    flags.add_pairs(parser)
    add(
        "--tuned",
        type=flags.path,
        metavar="FOLDER",
        help="a tuned lens, to read by as well (default: none)",
    )
    add("--out", type=flags.path, default=Path("thoughts.html"), help="the page")
    flags.add_threads(parser)
    add_model_flags(parser)


def write(arguments: argparse.Namespace) -> None:
    """Asks, reads and writes the page."""
    if (arguments.question is None) == (arguments.pair is None):
        raise UserError(
            "give a question in quotes, or the number of a pair as --pair, one of the two"
        )
    if arguments.out.is_dir():
        raise UserError(
            f"{arguments.out} is a folder; give the page a name, as --out thoughts.html"
        )
    asked = arguments.question if arguments.pair is None else chosen(arguments)
    from codi_lens.analysis.lenses import TunedLens
    from codi_lens.analysis.thoughts import read_thoughts
    from codi_lens.files import write_text
    from codi_lens.report.thoughts import thoughts_page

    codi = load_model(arguments)
    lens = arguments.tuned and TunedLens.load(arguments.tuned, codi)
    found = read_thoughts(codi, asked, tuned=lens, num_latents=arguments.num_latents)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out, thoughts_page(found))
    print(table(found))
    print(f"\nwritten:\n  {arguments.out}")


def chosen(arguments: argparse.Namespace) -> "Pair":
    """The pair of that number."""
    from codi_lens import load_pairs

    pairs = {pair.pair_id: pair for pair in load_pairs(pairs_name(arguments))}
    if arguments.pair not in pairs:
        known = f"{len(pairs)}, numbered {min(pairs)} to {max(pairs)}"
        raise UserError(f"no pair {arguments.pair} in {pairs_name(arguments)}; there are {known}")
    return pairs[arguments.pair]


def table(found: "Thoughts") -> str:
    """Thought by thought: what it says at the last layer, and what becomes of the answer."""
    says = found.readings["logit lens"].said[-1]
    lines = [found.question, "", " thought  says            if zeroed  if swapped  stop here"]
    for step, cell in zip(found.steps, says, strict=True):
        if not isinstance(step, int):
            continue
        top, stop = cell[0], found.stops[step + 1]
        swapped = float("nan") if found.resample is None else float(found.resample[step])
        said, given = (
            f"{top.text!r} {top.share:.2f}",
            stop.text if stop.own is None else f"{stop.answer} {stop.own:.2f}",
        )
        lines.append(
            f"{step:>8}  {said:<14}{float(found.zero[step]):>11.2f}{swapped:>12.2f}  {given}"
        )
    whole = found.stops[-1].final
    return "\n".join([*lines, "", f"answer {found.answer}, probability {whole:.2f}"])


main = Program("thoughts", __doc__, add_flags, write)
