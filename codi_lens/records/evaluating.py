"""An evaluation on disk, so that nothing is lost: a journal, and two files when all questions are answered.

journal.jsonl     a first line that says what is asked, then a line per finished batch of questions
questions.jsonl   a line per question: its id, question as asked, answer; and by condition the text and whether right
evaluation.json   settings, model, data; accuracies with intervals; written last
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from codi_lens.analysis.evaluation import (
    BATCH,
    Answered,
    Evaluation,
    Exam,
    answered,
    evaluated,
    make_exam,
    verdict,
)
from codi_lens.checkpoint.known import published_score
from codi_lens.data.datasets import Dataset
from codi_lens.errors import UserError
from codi_lens.files import expand, write_json, write_text
from codi_lens.model.hooked_codi import DECODED, HookedCodi
from codi_lens.records.journal_file import JournalFile
from codi_lens.records.journal_lines import Entry
from codi_lens.records.manifest import (
    JOURNAL,
    MANIFEST,
    SCHEMA_VERSION,
    describe_model,
    describe_versions,
)
from codi_lens.records.read import RecordError
from codi_lens.records.stopping import CtrlC, Interrupted

NAME = "evaluate"
QUESTIONS, EVALUATION = "questions.jsonl", "evaluation.json"


def evaluate(
    codi: HookedCodi,
    dataset: Dataset,
    folder: str | Path,
    resume: bool = True,
    *,
    num_latents: int | None = None,
    batch: int = BATCH,
    prepare: bool = True,
    judge: str | None = None,
    max_new_tokens: int = DECODED,
    progress: bool = True,
    call: Mapping[str, Any] | None = None,
    go_on: str = "the same call",
) -> Evaluation:
    """Evaluates a model as `analysis.evaluation.evaluate` does, and leaves the record in `folder`.

    The first Ctrl-C finishes the batch in flight. The same call again goes on, or reads a finished record back.

    Args:
        folder: for the record; made if need be.
        resume: whether an evaluation in `folder` is gone on with.
        progress: whether to show a progress bar.
        call: how a program was called, for the journal: what `--resume` knows its flags from.
        go_on: what goes on with the evaluation, for the message when it is interrupted.
        num_latents, batch, prepare, judge, max_new_tokens: as in `analysis.evaluation.evaluate`.

    Raises:
        UserError: input that cannot be used, or a folder that holds something else.
        RecordError: the evaluation in `folder` is not the same one (says what differs), or is damaged.
        Interrupted: Ctrl-C; what is finished is in the folder.
    """
    options = {"num_latents": num_latents, "batch": batch, "prepare": prepare, "judge": judge}
    exam = make_exam(codi, dataset, max_new_tokens=max_new_tokens, **options)  # type: ignore[arg-type]
    folder = expand(folder)
    header = describe(codi, exam) | dict(call or {})
    begun = _begun(folder, resume)
    file = JournalFile(folder / JOURNAL, resume=begun)
    try:
        if begun:
            file.go_on(header)
        else:
            file.begin(header)
        parts = _parts(file, exam)
        with CtrlC() as ctrl_c:
            done = {i for part in parts for i in part.indices}
            new = answered(codi, exam, done, lambda: ctrl_c.pressed)
            for part in _shown(new, exam, len(done)) if progress else new:
                file.append(asdict(part))
                parts.append(part)
        there = sum(len(part.indices) for part in parts)
        if there < len(dataset):
            said = (
                f"interrupted: {there} of {len(dataset)} questions are done; go on with\n  {go_on}"
            )
            raise Interrupted(said)
        evaluation = evaluated(codi, exam, parts)
        _write(folder, codi, evaluation)
    finally:
        file.close()
    return evaluation


def describe(codi: HookedCodi, exam: Exam) -> Entry:
    """Everything that the answers depend on."""
    data = exam.dataset
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": NAME,
        "settings": {
            "num_latents": exam.num_latents,
            "prepared_questions": exam.prepare,
            "judge": exam.judge,
            "max_new_tokens": exam.max_new_tokens,
            "batch": exam.batch,
        },
        "model": describe_model(codi),
        "data": {"name": data.name, "digest": data.digest, "n": len(data)},
        "versions": describe_versions(),
    }


def entry(codi: HookedCodi, evaluation: Evaluation) -> dict[str, Any]:
    """The content of `evaluation.json`."""
    conditions = []
    for name, condition in evaluation.conditions.items():
        row = {"condition": name, "accuracy": condition.accuracy, "right": sum(condition.correct)}
        row |= {"n": len(condition.correct), "interval_95": list(condition.interval)}
        conditions.append(row | {"cut": sum(evaluation.cut[name])})
    published = published_score(codi.name, evaluation.exam.dataset.known_as)
    main = evaluation.with_latents()
    return describe(codi, evaluation.exam) | {
        "threads": torch.get_num_threads(),
        "conditions": conditions,
        "published": None if published is None else asdict(published),
        "verdict": None if published is None else verdict(main, published),
    }


def _begun(folder: Path, resume: bool) -> bool:
    """Whether there is a journal in `folder`, which is made if need be."""
    if (folder / JOURNAL).exists():
        if resume:
            return True
        raise UserError(f"there is a run in {folder} already; give a fresh folder, or resume it")
    if (folder / MANIFEST).exists():
        raise UserError(f"{folder} holds a record without a {JOURNAL}; give a fresh folder")
    folder.mkdir(parents=True, exist_ok=True)
    return False


def _parts(file: JournalFile, exam: Exam) -> list[Answered]:
    """What is done, from the journal's lines."""
    parts: list[Answered] = []
    everyone, seen = set(range(len(exam.dataset))), set[int]()
    for number, line in enumerate(file.entries[1:], start=2):
        indices = line.get("indices", ())
        own = set(indices)
        fresh = own <= everyone - seen and len(own) == len(indices)
        if not own or not fresh:
            raise RecordError(
                f"{file.path}, line {number} is not of questions that were still to be asked; delete it"
            )
        seen |= own
        parts.append(Answered(tuple(indices), line["texts"], line["cut"]))
    return parts


def _shown(new: Iterator[Answered], exam: Exam, done: int) -> Iterator[Answered]:
    """The parts, shown as they come."""
    if done:
        sys.stderr.write(f"going on: {done} of {len(exam.dataset)} questions are there\n")
    with tqdm(total=len(exam.dataset), initial=done, unit="question", desc=NAME) as bar:
        for part in new:
            yield part
            bar.update(len(part.indices))


def _write(folder: Path, codi: HookedCodi, evaluation: Evaluation) -> None:
    """Writes both files."""
    write_text(folder / QUESTIONS, "".join(_lines(evaluation)))
    write_json({folder / EVALUATION: entry(codi, evaluation)})


def _lines(evaluation: Evaluation) -> Iterator[str]:
    data = evaluation.exam.dataset
    asked = zip(data.ids, evaluation.exam.questions, data.answers, strict=True)
    for i, (name, question, answer) in enumerate(asked):
        given = {
            condition.name: {"text": condition.texts[i], "right": condition.correct[i]}
            for condition in evaluation.conditions.values()
        }
        row = {"id": name, "question": question, "answer": answer, "conditions": given}
        yield json.dumps(row, ensure_ascii=False) + "\n"
