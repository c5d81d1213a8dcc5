"""How often is the model right? Greedy accuracy on a data set, beside the published figure.

Asks every question with all thoughts, with fewer, with none, and without the tokens around them. Prints a table, and
writes `evaluation.json` and `questions.jsonl`, which has every text and whether it is right. Questions are prepared
as CODI's test script does it: no blanks around them, and double blanks made one.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi_lens.cli import resuming
from codi_lens.cli.flags import add_model, add_out, add_threads, path
from codi_lens.cli.folders import check_unused, fresh_folder
from codi_lens.cli.model_flags import add_model_flags, load_model
from codi_lens.cli.program import Program
from codi_lens.data.datasets import NAMES, load_dataset
from codi_lens.errors import command

if TYPE_CHECKING:
    from codi_lens import HookedCodi
    from codi_lens.data.datasets import Dataset


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    add = parser.add_argument
    add_model(parser)
    data = "questions and answers; see codi_lens/data/datasets.py for files"
    add("--data", default="toy-heldout", help=f"{', '.join(NAMES)}, or a file: {data}")
    add("--limit", type=int, help="only the first LIMIT questions (default: all)")
    add_out(parser)
    add_threads(parser)
    add_model_flags(parser)
    add("--batch", type=int, default=128, help="questions side by side, at most")
    add("--max-new-tokens", type=int, default=32, help="of an answer")
    add("--judge", help="number, text or exact (default: as the data or the model asks)")
    add("--question-as-written", action="store_true", help="leave the blanks of questions alone")
    go_on = "go on with an unfinished evaluation (its flags are known)"
    add("--resume", type=path, metavar="FOLDER", help=go_on)


def body(arguments: argparse.Namespace) -> None:
    """Evaluates as the arguments ask, and tells of it."""
    arguments = resuming.resumed(main.parser(), arguments)
    if arguments.resume is None:
        check_unused(arguments.out)  # before there is a model to wait for
    dataset = load_dataset(arguments.data, arguments.limit)
    codi = load_model(arguments)
    folder = arguments.resume or fresh_folder(arguments.out, "evaluate")
    with resuming.hint(folder):
        execute(codi, dataset, folder, arguments)


def execute(
    codi: "HookedCodi", dataset: "Dataset", folder: Path, arguments: argparse.Namespace
) -> None:
    """Runs the evaluation, and prints what came of it."""
    from codi_lens import records
    from codi_lens.records.evaluating import EVALUATION, QUESTIONS, entry

    evaluation = records.evaluate(
        codi,
        dataset,
        folder,
        arguments.resume is not None,
        num_latents=arguments.num_latents,
        batch=arguments.batch,
        prepare=not arguments.question_as_written,
        judge=arguments.judge,
        max_new_tokens=arguments.max_new_tokens,
        call={"arguments": arguments.given, "working_folder": os.getcwd()},
        go_on=command("evaluate", "--resume", folder),
    )
    print(table(entry(codi, evaluation)))
    print("\nwritten:", *(f"  {folder / name}" for name in (EVALUATION, QUESTIONS)), sep="\n")


def table(record: dict[str, Any]) -> str:
    """The record in lines of text."""
    lines = [
        f"{record['model']['name']} on {record['data']['name']}, n = {record['data']['n']}",
        "",
    ]
    lines += ["condition                   right     95% interval"]
    for row in record["conditions"]:
        low, high = row["interval_95"]
        limit = record["settings"]["max_new_tokens"]
        cut = f"   {row['cut']} answers cut at {limit} tokens" if row["cut"] else ""
        lines.append(
            f"{row['condition']:<26}{row['accuracy']:>7.1%}   {low:>6.1%} – {high:<6.1%}{cut}"
        )
    if record["published"] is not None:
        published = record["published"]
        lines.append(f"{'published':<26}{published['accuracy']:>7.1%}   {published['source']}")
    unknown = f"no score of {record['model']['name']} on {record['data']['name']} is known"
    lines += ["", record["verdict"] or unknown]
    return "\n".join(lines)


main = Program("evaluate", __doc__, add_flags, body)
