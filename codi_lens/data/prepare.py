"""Preparing pairs: which are kept, which are set aside and why, and a report on the file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codi_lens.data.pairs import (
    PAIRS_FILE,
    SET_ASIDE_FILE,
    Json,
    Pair,
    pair_as_json,
    pairs_digest,
    read_pairs,
)
from codi_lens.errors import UserError
from codi_lens.files import expand, write_json

REPORT_FILE = "report.json"
SAME_ANSWER = "same answer on both sides"


@dataclass(frozen=True)
class SetAside:
    """A pair that experiments leave out unless told otherwise, and why."""

    pair: Pair
    reason: str


@dataclass(frozen=True)
class PairReport:
    """What `prepare` found.

    `duplicates` are groups of pair ids whose two questions are the same; `ignored_fields` says
    how many entries had each field that was left out.
    """

    kept: tuple[Pair, ...]
    set_aside: tuple[SetAside, ...]
    duplicates: tuple[tuple[int, ...], ...]
    ignored_fields: dict[str, int]

    @property
    def answer_difference(self) -> dict[str, float] | None:
        """min, max and mean of |clean - corrupted| over the pairs of numbers kept; None if none is."""
        both = [(pair.clean.answer, pair.corrupted.answer) for pair in self.kept]
        gaps = [
            abs(clean - corrupted)
            for clean, corrupted in both
            if not isinstance(clean, str) and not isinstance(corrupted, str)
        ]
        if not gaps:
            return None
        return {"min": min(gaps), "max": max(gaps), "mean": sum(gaps) / len(gaps)}

    def as_json(self) -> dict[str, Json]:
        """The report as it is stored; the pairs themselves are in files of their own."""
        return {
            "read": len(self.kept) + len(self.set_aside),
            "kept": len(self.kept),
            "set_aside": [
                {"pair_id": one.pair.pair_id, "reason": one.reason} for one in self.set_aside
            ],
            "answer_difference": self.answer_difference,
            "duplicates": [list(group) for group in self.duplicates],
            "ignored_fields": self.ignored_fields,
            "pairs_digest": pairs_digest(self.kept),
        }


def prepare(name_or_path: str | Path) -> PairReport:
    """Read and check pairs, and separate those whose two answers are the same.

    Duplicates are reported and kept. Raises UserError as `load_pairs` does.
    """
    return report_on(*read_pairs(name_or_path))


def report_on(pairs: Sequence[Pair], ignored_fields: dict[str, int]) -> PairReport:
    """Pairs separated by whether their two answers are the same; `ignored_fields` as `read_pairs` gives them."""
    same_questions: dict[tuple[str, str], list[int]] = {}
    for pair in pairs:
        questions = (pair.clean.question, pair.corrupted.question)
        same_questions.setdefault(questions, []).append(pair.pair_id)
    return PairReport(
        kept=tuple(pair for pair in pairs if not pair.same_answer),
        set_aside=tuple(SetAside(pair, SAME_ANSWER) for pair in pairs if pair.same_answer),
        duplicates=tuple(tuple(ids) for ids in same_questions.values() if len(ids) > 1),
        ignored_fields=ignored_fields,
    )


def write_report(folder: Path, report: PairReport) -> None:
    """Write `pairs.json`, `set_aside.json` (with reasons) and `report.json` into a folder.

    Raises UserError where the folder cannot be written to.
    """
    folder = expand(folder)
    files: dict[Path, Json] = {
        folder / PAIRS_FILE: [pair_as_json(pair) for pair in report.kept],
        folder / SET_ASIDE_FILE: [
            {**pair_as_json(one.pair), "reason": one.reason} for one in report.set_aside
        ],
        folder / REPORT_FILE: report.as_json(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(files)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; give another folder"
        ) from error
