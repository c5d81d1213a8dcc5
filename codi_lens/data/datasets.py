"""Data sets: questions with their right answers, from the hub's cache or a file.

A file holds one of

* pairs, in the formats of `data/pairs.py`: every clean and every corrupted question is asked;
* a JSON list of `{"question": …, "answer": …}` (ProsQA's files are such; other fields are ignored);
* a line per problem: JSON objects (GSM8K's files), or `question||steps #### answer` (GSM8K-Aug's).

Where an answer holds "####", as the solutions of GSM8K do, what follows the last one is the answer.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codi_lens.data.answers import Answer, as_stored, spell
from codi_lens.data.pairs import SIDES, load_pairs, side_of
from codi_lens.errors import UserError, whole_number
from codi_lens.files import expand, parse_json, read_text
from codi_lens.shipped import MADE_PAIRS, PAIRS

PAIR_FIELDS = {"pair_id", "clean", "corrupted", "variant"}


@dataclass(frozen=True)
class Dataset:
    """Questions and their right answers, in order; `ids` tell them apart."""

    name: str
    questions: tuple[str, ...]
    answers: tuple[Answer, ...]
    ids: tuple[int | str, ...]
    judge: str | None = None
    """How its answers are judged right; None: as the model's config says, else as their kind asks."""
    known_as: str | None = None
    """The name under which scores on it are published."""

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def digest(self) -> str:
        """SHA-256 of questions and answers, in their order, as canonical JSON."""
        both = [list(both) for both in zip(self.questions, self.answers, strict=True)]
        return hashlib.sha256(json.dumps(both, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Source:
    """Where a known data set comes from, and what does instead."""

    arguments: Mapping[str, str]
    """Of `datasets.load_dataset`; or "data_files" alone, the address of a JSON file that is on no hub."""
    judge: str
    known_as: str
    file: str
    """The file that does instead, and where it is."""


SOURCES = {
    "gsm8k": Source(
        {"path": "openai/gsm8k", "name": "main", "split": "test"},
        judge="number",
        known_as="gsm8k",
        file="grade_school_math/data/test.jsonl of github.com/openai/grade-school-math",
    ),
    # The same problems, as CODI was trained to see them.
    "gsm8k-aug": Source(
        {"path": "whynlp/gsm8k-aug", "split": "test"},
        judge="number",
        known_as="gsm8k",
        file="data/gsm8k/test.txt of github.com/da03/Internalize_CoT_Step_by_Step",
    ),
    "prosqa": Source(
        {
            "data_files": "https://raw.githubusercontent.com/facebookresearch/coconut/main/data/prosqa_test.json"
        },
        judge="text",
        known_as="prosqa",
        file="data/prosqa_test.json of github.com/facebookresearch/coconut",
    ),
}
"""Name -> a data set that `datasets` gets from its cache, or fetches; ProsQA is not on the hub and is fetched each time."""
NAMES = tuple(dict.fromkeys((*SOURCES, *PAIRS, *MADE_PAIRS)))
KNOWN = {"51d69ec55b4d55ac2d7ddef6ce2a72377664ead552350edd4f3911360418ac01": "gsm8k"}
"""Digest -> the name under which scores on it are published: files may be called anything."""


def load_dataset(name_or_path: str | Path, limit: int | None = None) -> Dataset:
    """The data set of this name (`NAMES`), or in this file or folder of pairs; the first `limit` problems of it.

    Raises:
        UserError: nothing there, or something else; says what would do, and lists every bad entry.
    """
    name = str(name_or_path)
    source = SOURCES.get(name)
    if source is not None:
        rows = _from_hub(name, source)
        found = _dataset(name, _problems(name, rows), source.judge, source.known_as)
    elif name in PAIRS or name in MADE_PAIRS or expand(name).is_dir():
        found = _of_pairs(name)
    else:
        found = _from_file(expand(name))
    found = replace(found, known_as=found.known_as or KNOWN.get(found.digest))
    if limit is None:
        return found
    n = whole_number(limit, "limit", at_least=1)
    first = {"questions": found.questions[:n], "answers": found.answers[:n], "ids": found.ids[:n]}
    return replace(found, **first)  # type: ignore[arg-type]


def load_rows(name_or_path: str | Path) -> list[Any]:
    """The problems of a known data set, or of a file, as they are there: with their solutions, graphs and all.

    Raises:
        UserError: as `load_dataset` does.
    """
    name = str(name_or_path)
    if name in SOURCES:
        return list(_from_hub(name, SOURCES[name]))
    return _file_rows(expand(name))


def as_tested(question: str) -> str:
    """A question as CODI's official test script prepares it: no blanks around it, double ones made one."""
    return question.strip().replace("  ", " ")


Problem = tuple[int | str, str, Answer]


def _dataset(
    name: str, problems: list[Problem], judge: str | None = None, known_as: str | None = None
) -> Dataset:
    if not problems:
        raise UserError(f"{name} holds no questions")
    ids, questions, answers = zip(*problems, strict=True)
    return Dataset(name, questions, answers, ids, judge, known_as)


def _of_pairs(name: str) -> Dataset:
    problems: list[Problem] = [
        (f"{pair.pair_id} {side}", side_of(pair, side).question, side_of(pair, side).answer)
        for pair in load_pairs(name)
        for side in SIDES
    ]
    return _dataset(name, problems)


def _from_hub(name: str, source: Source) -> Iterable[Any]:
    import datasets

    try:
        rows: Iterable[Any] = (
            datasets.load_dataset(**source.arguments)
            if "path" in source.arguments
            else _fetched(**source.arguments)
        )
    except Exception as error:  # of the many kinds that datasets, the hub and the network raise
        raise UserError(
            f"cannot load {name} ({source.arguments.get('data_files') or source.arguments['path']}): "
            f"{type(error).__name__}: {error}; it has to be in the cache of the package datasets, or within "
            f"reach of it; else give a file: {source.file}"
        ) from error
    return rows


def _fetched(data_files: str) -> list[Any]:
    """The problems of a JSON file on the web, by the client of the hub, which honours its settings."""
    from huggingface_hub import get_session

    response = get_session().get(data_files, follow_redirects=True)
    response.raise_for_status()
    rows: list[Any] = response.json()
    return rows


def _file_rows(path: Path) -> list[Any]:
    """The problems of a file, whatever its format."""
    try:
        content = read_text(path)
    except OSError as error:
        raise UserError(
            f"cannot read a data set from {path}: {error.strerror}; give one of {', '.join(NAMES)}, "
            "or a file"
        ) from error
    return _rows(path, content)


def _from_file(path: Path) -> Dataset:
    rows = _file_rows(path)
    if any(isinstance(row, dict) and PAIR_FIELDS & row.keys() for row in rows):
        return _of_pairs(str(path))
    return _dataset(str(path), _problems(str(path), rows))


def _rows(path: Path, content: str) -> list[Any]:
    """The problems of a file as its format has them, told by how it begins."""
    try:
        if content.lstrip().startswith("["):
            return list(parse_json(content))
        lines = [line for line in content.split("\n") if line.strip()]
        if content.lstrip().startswith("{"):
            return [parse_json(line) for line in lines]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON: {error}") from error
    parted = [line.partition("||") for line in lines]
    if not all(bars for _, bars, _ in parted):
        raise UserError(
            f"{path} is no data set; a JSON list, a line of JSON for each problem, or lines of "
            "question||steps #### answer would do"
        )
    return [{"question": question, "answer": answer} for question, _, answer in parted]


def _problems(name: str, rows: Iterable[Any]) -> list[Problem]:
    """Questions and answers of rows that have fields of these names."""
    problems: list[Problem] = []
    faults: list[str] = []
    for index, row in enumerate(rows):
        fields = row if isinstance(row, Mapping) else {}
        question, answer = fields.get("question"), fields.get("answer")
        if not isinstance(question, str) or not question.strip():
            faults.append(f"entry {index}: question: expected text that is not blank")
            continue
        if isinstance(answer, str) and "####" in answer:
            answer = answer.rpartition("####")[2].strip()
        try:
            spell(answer)  # type: ignore[arg-type] # whatever a file holds, it checks
            problems.append((index, question, as_stored(answer)))  # type: ignore[arg-type]
        except UserError:
            faults.append(f"entry {index}: answer: expected a number or text, found {answer!r}")
    if faults:
        more = [f"and {len(faults) - 5} more"] if len(faults) > 5 else []
        listing = "\n  ".join([*faults[:5], *more])
        raise UserError(f"{name} has {len(faults)} fault(s):\n  {listing}")
    return problems
