"""What would the answer be, had one number been another? Makes pairs of a data set's problems, or of templates.

`gsm8k` and `gsm8k-aug` change one number of a question and follow it through the solution's annotated calculations;
`prosqa` exchanges the two words asked about in the graph; `templates` are two-step problems of our own. A problem that
cannot be followed with certainty is refused with a reason. FOLDER gets `pairs.json`, `set_aside.json` and `report.json`, as
from `prepare_pairs`, and `refused.json`.
"""

import argparse
from typing import TYPE_CHECKING

from codi_lens.cli.flags import add_seed, path
from codi_lens.cli.folders import check_unused, fresh_folder
from codi_lens.cli.program import Program
from codi_lens.errors import UserError
from codi_lens.files import write_json

if TYPE_CHECKING:
    from codi_lens.data.counterfactuals import Fit, Made

SETS = ("gsm8k", "gsm8k-aug", "prosqa", "templates")
REFUSED_FILE = "refused.json"
TEMPLATES = 100
"""Pairs from templates, unless --sample says how many."""
FLAGS = {
    "data": ("gsm8k", "gsm8k-aug", "prosqa"),
    "changes": ("gsm8k", "gsm8k-aug"),
    "minimal": ("gsm8k", "gsm8k-aug"),
}
"""Flags that not every set has -> those that do."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    add = parser.add_argument
    add("set", choices=SETS, help="what to make them of")
    text = "the set's problems, in its own format (default: from the cache of datasets, or the hub)"
    add("--data", metavar="FILE", type=path, help=text)
    add("--out", metavar="FOLDER", type=path, required=True, help="for what came of them")
    add(
        "--sample",
        type=int,
        help=f"only so many, drawn at random (default: all; {TEMPLATES} templates)",
    )
    add("--changes", type=int, default=1, help="pairs per problem, at most")
    add("--minimal", action="store_true", help="change numbers by one unit only")
    add_seed(parser)
    text = "whose, for the flags that follow: a folder or hub id, or 'toy' (default: none)"
    add("--tokenizer", metavar="NAME", help=text)
    text = "in front of answers, for --single-tokens"
    add("--answer-stem", default="The answer is: ", help=text)
    add("--single-tokens", action="store_true", help="answers and intermediates of one token only")
    add("--same-length", action="store_true", help="both questions have as many tokens")


def body(arguments: argparse.Namespace) -> None:
    """Makes the pairs, writes them and what was refused, and prints a summary."""
    from codi_lens.data.prepare import report_on, write_report

    check_flags(arguments)
    made = make(arguments, fit_of(arguments))
    said = [f"{len(made.pairs)} pairs made, {len(made.refused)} problems refused"]
    said += [f"  {count:>5}  {reason.value}" for reason, count in made.counts.items()]
    if not made.pairs:
        raise UserError("\n".join(said))
    if arguments.sample and arguments.set != "templates":
        made = made.sample(arguments.sample, arguments.seed)
        said.append(f"{len(made.pairs)} pairs drawn")
    folder = fresh_folder(arguments.out, "make_pairs")
    refused = [{"id": one.id, "reason": one.reason.value} for one in made.refused]
    write_json({folder / REFUSED_FILE: refused})
    write_report(folder, report_on(made.pairs, {}))
    print(*said, f"written to {folder}", sep="\n")


def check_flags(arguments: argparse.Namespace) -> None:
    """Refuses a used folder, and flags that the set would ignore, before anything is read."""
    check_unused(arguments.out)
    for name, sets in FLAGS.items():
        unsaid = main.parser().get_default(name)
        if arguments.set not in sets and getattr(arguments, name) != unsaid:
            raise UserError(f"{arguments.set} has no --{name}; {', '.join(sets)} have")


def make(arguments: argparse.Namespace, fit: "Fit | None") -> "Made":
    """All pairs that the flags ask for."""
    from codi_lens.data.counterfactuals import fitting, gsm8k_pairs, prosqa_pairs
    from codi_lens.data.datasets import load_rows
    from codi_lens.data.templates import generate_pairs

    seed = arguments.seed
    if arguments.set == "templates":
        return fitting(generate_pairs(arguments.sample or TEMPLATES, seed), fit)
    rows = load_rows(arguments.data or arguments.set)
    if arguments.set == "prosqa":
        return prosqa_pairs(rows, fit=fit)
    changes, minimal = arguments.changes, arguments.minimal
    return gsm8k_pairs(rows, changes=changes, minimal=minimal, seed=seed, fit=fit)


def fit_of(arguments: argparse.Namespace) -> "Fit | None":
    """What --tokenizer and its flags ask of pairs; None if nothing.

    Raises:
        UserError: one without the other.
    """
    asked = arguments.single_tokens or arguments.same_length
    if bool(arguments.tokenizer) != asked:
        lack = "--tokenizer NAME" if asked else "--single-tokens, --same-length or both"
        raise UserError(f"--tokenizer says for which model, the other flags what for; add {lack}")
    if not asked:
        return None
    from codi_lens.checkpoint.hub import model_files
    from codi_lens.data.counterfactuals import Fit
    from codi_lens.model.pretrained import read_tokenizer

    files = model_files(arguments.tokenizer)
    tokenizer = read_tokenizer(files.tokenizer(), files)
    return Fit(tokenizer, arguments.single_tokens, arguments.same_length, arguments.answer_stem)


main = Program("make_pairs", __doc__, add_flags, body)
