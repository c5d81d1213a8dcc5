"""The card of a trained model: `README.md` beside its weights, from the run's own records."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch

from codi_lens.organisms.toy import task
from codi_lens.organisms.toy.family import FAMILIES, Family
from codi_lens.organisms.toy.train import Progress, Recipe, Stage

_INTRO = """\
# Embedded model: {name}

A small {name}, trained on CPU by `codi-lens train_toy --family {family}` and stored in the layout of the
official checkpoints. It exists so that everything in this library can be run and tested without a
download. It is of no use outside its task.

## Task

Arithmetic word problems of two or three steps: {n_kinds} kinds, {n_phrasings} phrasings, each with several names and
nouns. Every result on the way and the answer lies in {values}. Of the {n_triples} admissible
(kind, a, b, c), {n_heldout} are held out: training never sees them, in no phrasing. All accuracies below
are the share of exact greedy answers to {n_problems} held-out problems, equally many of each kind.

| kind | a | b | c | example |
|---|---|---|---|---|
"""


_DEPARTURE = (
    " (Coconut's own curriculum puts thoughts in place of written steps, one stage after the other)"
)
_STORED_APART = (
    "And all weights are trained in place of low-rank "
    "adapters: in the file, the linear weights of the base stage stand in bfloat16, and adapters of full "
    "rank, in {dtype}, hold everything learned since. "
)
_STORED_WHOLE = "The file holds all weights in {dtype}. "


def make_card(
    recipe: Recipe, curve: Sequence[Progress], record: Mapping[str, Any], seconds: float
) -> str:
    """Task, recipe, training curve, accuracy by kind and with the thoughts taken away, as Markdown.

    `record` is that of the necessity check on the held-out problems (`necessity.json`).
    """
    parts = [_task(recipe, record), _recipe(recipe, seconds), _curve(curve), _accuracy(record)]
    return "\n".join([*parts, _ablations(recipe, record)])


def _span(values: range) -> str:
    return f"{values[0]}–{values[-1]}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _task(recipe: Recipe, record: Mapping[str, Any]) -> str:
    examples = {problem.kind: problem for problem in task.heldout_problems(seed=0, per_kind=1)}
    intro = _INTRO.format(
        name=FAMILIES[recipe.family].name,
        family=recipe.family,
        n_kinds=len(task.KINDS),
        n_phrasings=sum(task.n_phrasings(kind) for kind in task.KINDS),
        values=_span(task.VALUE_RANGE),
        n_triples=sum(len(task.triples(kind)) for kind in task.KINDS),
        n_heldout=sum(len(task.heldout_triples(kind)) for kind in task.KINDS),
        n_problems=record["conditions"][0]["n"],
    )
    rows = [
        f"| {kind} | {' | '.join(map(_span, task.ranges(kind)))} | {p.question} {' '.join(p.cot)} |\n"
        for kind, p in examples.items()
    ]
    return intro + "".join(rows)


def _stage(stage: Stage) -> list[str]:
    return [format(getattr(stage, name.name), "") for name in fields(Stage)]


def _stored(family: Family) -> str:
    text = _STORED_WHOLE if family.adapters is None else _STORED_APART
    dtype = str(family.adapters or family.weights or torch.float32)
    return text.format(dtype=dtype.removeprefix("torch."))


def _recipe(recipe: Recipe, seconds: float) -> str:
    size = ", ".join(f"{f.name} {getattr(recipe.size, f.name)}" for f in fields(recipe.size))
    weights = ", ".join(f"{kind} {weight:g}" for kind, weight in recipe.kind_weights.items())
    stages = markdown_table(
        [f.name for f in fields(Stage)], [_stage(stage) for stage in recipe.stages]
    )
    return (
        f"## Recipe\n\nSeed {recipe.seed}, {seconds / 60:.0f} minutes of training on one shared CPU core. "
        f"{size}. Distillation weight {recipe.distill:g}. How often each kind is drawn: {weights}.\n\n"
        f"{stages}\n"
        "Stage `base` learns to write the steps out, `codi` is CODI's self-distillation"
        f"{_DEPARTURE if FAMILIES[recipe.family].adapters is None else ''}, and these things "
        "are not part of the published recipe. `sealed` is the share of problems whose answer may not attend "
        "to the question nor to the first few thoughts (in training only). `swapped` has each question also "
        "give another problem's answer when it is fed that problem's thoughts, and when it is fed none, which "
        "unlearns answering from the question alone. "
        f"{_stored(FAMILIES[recipe.family])}"
        "Every stage starts from its own seed and a fresh optimiser.\n"
    )


def _curve(curve: Sequence[Progress], n_lines: int = 24) -> str:
    every = max(1, -(-len(curve) // n_lines))
    last = {line.stage: line for line in curve}
    kept = [line for i, line in enumerate(curve) if i % every == 0 or line is last[line.stage]]
    rows = [
        [
            line.stage,
            str(line.step),
            f"{line.seconds:.0f}",
            *(f"{loss:.4f}" for loss in (line.teacher_loss, line.student_loss, line.distill_loss)),
            f"{line.accuracy:.1%}",
        ]
        for line in kept
    ]
    head = ["stage", "step", "seconds", "teacher loss", "student loss", "distillation", "held-out"]
    return (
        "## Training curve\n\nLosses are means since the line before in the full record; the last column "
        "is the accuracy of the student (of the teacher in the base stage, its steps given).\n\n"
        + markdown_table(head, rows)
    )


def _accuracy(record: Mapping[str, Any]) -> str:
    rows = [[kind, f"{row['accuracy']:.1%}"] for kind, row in record["by_kind"].items()]
    rows.append(["all", f"{record['conditions'][0]['accuracy']:.1%}"])
    return "## Accuracy by kind\n\n" + markdown_table(["kind", "held-out"], rows)


def _ablations(recipe: Recipe, record: Mapping[str, Any]) -> str:
    rows = []
    for row in record["conditions"]:
        low, high = row["interval_95"]
        donor = "" if row["donor_rate"] is None else f"{row['donor_rate']:.1%}"
        rows.append([row["condition"], f"{row['accuracy']:.1%}", f"{low:.1%} – {high:.1%}", donor])
    head = ["thoughts fed", "right", "95% interval", "that problem's answer"]
    return (
        "## Are the thoughts needed?\n\nThe same problems with fewer thoughts, without the wrapper, with the "
        "thoughts of another problem whose answer differs, with the mean over all problems, and with noise "
        "of the same norm. The `swap` stage trains on two of these interventions (another problem's thoughts, none), "
        "so their figures are in part what was asked for. "
        f"`python -m experiments.necessity --model {recipe.family} --pairs toy-heldout` prints this table and the "
        "one above.\n\n" + markdown_table(head, rows)
    )
