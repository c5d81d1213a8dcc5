"""Check a file of clean/corrupted pairs and separate those that cannot be patched between.

    python -m experiments.prepare_pairs FILE --out FOLDER

FILE is in the flat or the prepared format (see `codi_lens.data.pairs`), a folder made by this program,
or "toy". FOLDER gets `pairs.json`, `set_aside.json` and `report.json`. A file with any fault ends
in one message that lists them all, exit code 2, and nothing written.
"""

from pathlib import Path

from codi_lens.cli import common
from codi_lens.data.pairs import PAIRS_FILE, SET_ASIDE_FILE
from codi_lens.data.prepare import PairReport, prepare, write_report
from codi_lens.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Run the program; the exit code is 0, or 2 for input that cannot be used."""
    parser = common.new_parser(
        "prepare_pairs",
        "Check clean/corrupted pairs and set aside those with the same answer.",
    )
    parser.add_argument(
        "file", metavar="FILE", type=common.path, help='pairs, flat or prepared format, or "toy"'
    )
    parser.add_argument("--out", metavar="FOLDER", type=common.path, required=True)
    return common.run(parser, argv, lambda given: check(given.file, given.out))


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
