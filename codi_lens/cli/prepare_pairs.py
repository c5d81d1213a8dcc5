"""Which pairs can be patched between? Checks a file of pairs and sets aside those with the same answer.

FILE is in the flat or the prepared format, which `codi_lens.data.pairs` describes, a folder made by this
program, or "toy". FOLDER gets `pairs.json`, `set_aside.json` and `report.json`. A file with any fault ends in
one message that lists them all, exit code 2, and nothing written.
"""

import argparse
from pathlib import Path

from codi_lens.cli.flags import path
from codi_lens.cli.program import Program
from codi_lens.data.pairs import PAIRS_FILE, SET_ASIDE_FILE
from codi_lens.data.prepare import PairReport, prepare, write_report
from codi_lens.errors import UserError


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    add = parser.add_argument
    add("file", metavar="FILE", type=path, help='pairs, flat or prepared format, or "toy"')
    add("--out", metavar="FOLDER", type=path, required=True, help="for what came of them")


def check(file: Path, folder: Path) -> None:
    """Checks a file of pairs, writes what came of it and prints a summary."""
    _refuse_overwriting(file, folder)
    report = prepare(str(file))
    write_report(folder, report)
    print(summary(report))
    print(f"written to {folder}")


def summary(report: PairReport) -> str:
    """The report in a few lines of text."""
    read = len(report.kept) + len(report.set_aside)
    lines = [f"{read} pairs read, {len(report.kept)} kept, {len(report.set_aside)} set aside"]
    lines += [f"  pair {one.pair.pair_id}: {one.reason}" for one in report.set_aside]
    if difference := report.answer_difference:
        figures = ", ".join(f"{name} {value:.10g}" for name, value in difference.items())
        lines.append(f"|clean - corrupted| answers of the pairs kept: {figures}")
    lines += [
        f"duplicates: pairs {', '.join(map(str, group))} ask the same two questions"
        for group in report.duplicates
    ]
    if report.ignored_fields:
        fields = ", ".join(f"{name} ({count})" for name, count in report.ignored_fields.items())
        lines.append(f"fields left out (entries that had them): {fields}")
    return "\n".join(lines)


def _refuse_overwriting(file: Path, folder: Path) -> None:
    """Output over the input would lose the pairs that are not in this one file."""
    if file.resolve() in {(folder / name).resolve() for name in (PAIRS_FILE, SET_ASIDE_FILE)}:
        raise UserError(f"{folder} already holds the input {file}; give another folder as --out")


main = Program("prepare_pairs", __doc__, add_flags, lambda given: check(given.file, given.out))
