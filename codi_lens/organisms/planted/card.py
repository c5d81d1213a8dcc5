"""The card of an organism: `README.md` beside its weights, from the run's own records."""

import random

from codi_lens.organisms.planted.certify import (
    BAR_ACCURACY,
    BAR_RULES,
    Certificate,
)
from codi_lens.organisms.planted.losses import Trained
from codi_lens.organisms.planted.task import WORDINGS
from codi_lens.organisms.planted.truth import Truth
from codi_lens.organisms.toy.card import markdown_table

_INTRO = """\
# Organism: {name}

{text}

A small CODI LLaMA whose mechanism was planted by interchange training, for scoring methods that look for mechanisms in
latent thoughts. `codi-lens train_organism {name} --seed {seed}` makes it; `truth.json` has the truth as data. The weights are in
half precision, in CODI's official layout, without adapters. It is of no use outside its task.

## Task

{task}

{examples}
"""


def make_card(run: Trained, truth: Truth, certificate: Certificate) -> str:
    """Truth, task, recipe, certificate and training curve, as Markdown."""
    recipe, task = run.recipe, truth.planted.task
    numbers, operations = _example(run)
    examples = [f"* {w}: {task.text(numbers, operations, w)}" for w in WORDINGS]
    intro = _INTRO.format(
        name=recipe.name,
        text=truth.text,
        seed=recipe.seed,
        task=(type(task).__doc__ or "").strip(),
        examples="\n".join(examples),
    )
    return "\n".join([intro, _holds(truth), certificate_table(certificate), _training(run)])


def _example(run: Trained) -> tuple[tuple[int, ...], tuple[str, ...]]:
    return run.recipe.mechanism.task.draw(random.Random(0))


def _holds(truth: Truth) -> str:
    rows = [
        [str(k), ", ".join(truth.holds.get(k, ())) or "nothing", truth.routes.get(k, "")]
        for k in range(truth.num_latents)
    ]
    way = [[name, ", ".join(map(str, thoughts)) or "none"] for name, thoughts in truth.way.items()]
    return (
        "## Truth\n\n"
        + markdown_table(["thought", "holds", "leaves by"], rows)
        + "\nThe way from a result to the answer leads through these thoughts:\n\n"
        + markdown_table(["first result that differs", "thoughts"], way)
    )


def certificate_table(certificate: Certificate) -> str:
    """What was measured, as Markdown."""
    rows = [["answers", f"{certificate.accuracy:.3f}", f"≥ {BAR_ACCURACY}"]]
    rows += [[rule, f"{rate:.3f}", f"≥ {BAR_RULES}"] for rule, rate in certificate.rules.items()]
    return (
        f"## Certificate\n\nOn {certificate.n} held-out problems, by whole greedy answers. A rule exchanges what "
        "stands before the arrow for another problem's; then the answer must be the one that follows from that problem's "
        "result, or, where nothing is set, its own.\n\n"
        + markdown_table(["", "share", "bar"], rows)
    )


def _training(run: Trained) -> str:
    recipe, minutes = run.recipe, run.curve[-1].seconds / 60
    first = recipe.mechanism.begins_from
    began = f", from the weights of `{first}`" if first else ""
    rows = [
        [
            str(line.step),
            f"{line.seconds:.0f}",
            *(f"{x:.4f}" for x in (line.answer_loss, line.says_loss, line.interchange_loss)),
            f"{line.accuracy:.3f}",
            f"{line.worst_rule:.3f}",
        ]
        for line in run.curve
    ]
    head = ["step", "seconds", "answer", "says", "interchange", "held-out", "worst rule"]
    return (
        f"## Training\n\nSeed {recipe.seed}{began}: {recipe.batch} problems a step, AdamW at {recipe.lr:g} (weight decay "
        f"{recipe.weight_decay:g}); what states must say weighs {recipe.says:g}. Rows are exchanged once held-out accuracy is "
        f"{recipe.threshold:g}, and for {recipe.steps} steps, over which the learning rate falls to nearly zero. "
        f"{minutes:.1f} minutes on one shared CPU core.\n\n" + markdown_table(head, rows)
    )
