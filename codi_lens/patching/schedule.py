"""Rows of interventions, and which of them are in the batch at which step.

A *row* is one run of the model: a prompt, and what is done to it. Until a row's first intervention it is the
unpatched run of its prompt, so it joins the batch only then; a row that is never touched, or whose
intervention comes later, is read off the prompt's one unpatched run. `batches` works this out for a plan.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from codi_lens.errors import UserError
from codi_lens.model.hooks import Site, Step


@dataclass(frozen=True)
class Displaced:
    """base + ‖source − base‖ · direction, with two rows' activations at the place of the patch."""

    base: int
    source: int
    direction: Float[Tensor, " d_model"]
    """Of length 1."""


Source = int | Tensor | Displaced
"""What a patch puts in: a row's activation at the same place, a value, or a displacement."""


@dataclass(frozen=True)
class Patch:
    """One activation, at the last position of a step, set to something else."""

    name: str
    """Hook point, e.g. "blocks.3.hook_resid_post"; "hook_embed" at a latent step is the thought."""
    step: Step
    source: Source
    """A row stands for its activation at the same place, as the model computed it."""


@dataclass(frozen=True)
class Row:
    """One run: a prompt and the interventions on it. Rows are referred to by their index."""

    prompt: int
    patches: tuple[Patch, ...] = ()
    thoughts_of: int | None = None
    """Row whose thoughts are fed at every latent step, instead of this row's own."""
    watch: tuple[Site, ...] = ()
    """Places whose activation (before any patch there) is to be kept."""


def shifted(rows: Sequence[Row], by_rows: int, by_prompts: int) -> list[Row]:
    """The same rows further down a list: every reference to a row or a prompt moved along."""

    def moved(source: Source) -> Source:
        if isinstance(source, Displaced):
            return Displaced(source.base + by_rows, source.source + by_rows, source.direction)
        return source + by_rows if isinstance(source, int) else source

    return [
        Row(
            row.prompt + by_prompts,
            tuple(Patch(p.name, p.step, moved(p.source)) for p in row.patches),
            None if row.thoughts_of is None else row.thoughts_of + by_rows,
            row.watch,
        )
        for row in rows
    ]


@dataclass(frozen=True)
class Batch:
    """The runs that are in the batch at one step."""

    taken_from: tuple[int, ...]
    """For each of them, its place in the batch of the step before; at bot, its prompt."""
    place: tuple[int, ...]
    """For each row, the place of the run that it is at this step: its own, or its prompt's."""
    joined: tuple[bool, ...]
    """For each row, whether that run is its own."""


def steps_of(num_latents: int) -> tuple[Step, ...]:
    """The steps at which rows can be patched, in order."""
    return ("bot", *range(num_latents), "eot")


def batches(rows: Sequence[Row], num_latents: int) -> dict[Step, Batch]:
    """The batch of every step. Rows of one prompt lie side by side.

    Raises:
        UserError: a patch at a step that this run does not have.
    """
    first = _first_steps(rows, num_latents)
    found: dict[Step, Batch] = {}
    prompts = [row.prompt for row in rows]
    before = {~prompt: prompt for prompt in prompts}
    for now, step in enumerate(steps_of(num_latents)):
        # A run has a number: its row's, or ~prompt for the unpatched run of a prompt.
        runs = [i if first[i] <= now else ~prompt for i, prompt in enumerate(prompts)]
        prompt_of = {run: ~run if run < 0 else prompts[run] for run in runs}
        size = Counter(prompt_of.values())
        # Prompts with equally many runs lie side by side too: they are one matrix product.
        keys = [(size[prompt], prompt, run) for run, prompt in prompt_of.items()]
        order = [run for _, _, run in sorted(keys)]
        taken_from = tuple(before[run if run in before else ~prompt_of[run]] for run in order)
        before = {run: place for place, run in enumerate(order)}
        joined = tuple(run >= 0 for run in runs)
        found[step] = Batch(taken_from, tuple(before[run] for run in runs), joined)
    return found


def _first_steps(rows: Sequence[Row], num_latents: int) -> list[int]:
    """For each row the number of the first step at which it differs from its prompt's plain run."""
    steps = {step: i for i, step in enumerate(steps_of(num_latents))}
    never = len(steps)
    first = [never] * len(rows)
    for index, row in enumerate(rows):
        for step in (*(p.step for p in row.patches), *(site.step for site in row.watch)):
            if step not in steps:
                raise UserError(
                    f"no step {step!r} for a row; this run has bot, eot and {num_latents} latent steps"
                )
        first[index] = min([never, *(steps[patch.step] for patch in row.patches)])
    changed = True
    while changed:  # once more for every link of a chain of rows that are fed each other's thoughts
        changed = False
        for index, row in enumerate(rows):
            if row.thoughts_of is None:
                continue
            # A row's thoughts differ from the step after the one at which it does; the last is never fed.
            fed = first[row.thoughts_of] + 1 if rows[row.thoughts_of].prompt == row.prompt else 1
            if fed <= num_latents and fed < first[index]:
                first[index], changed = fed, True
    return first
