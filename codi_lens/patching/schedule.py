"""Runs with interventions, and which of them are in the batch at which step.

A *run* goes through the whole loop once: a prompt, and what is done to it. Until its first intervention it is
the unpatched run of its prompt, so it joins the batch only then; a run that is never touched, or whose
intervention comes later, is read off the prompt's one unpatched run. `batches` works this out for a plan.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from codi_lens.errors import UserError
from codi_lens.model.hooks import Site, Step
from codi_lens.model.knockouts import Knockout
from codi_lens.patching.interventions import Intervention


@dataclass(frozen=True)
class Patch:
    """One activation, at the last position of a step, set to something else."""

    site: Site
    """Such as ("blocks.3.hook_resid_post", 2); "hook_embed" at a latent step is the thought."""
    intervention: Intervention


@dataclass(frozen=True)
class Run:
    """A prompt and the interventions on it. Runs are referred to by their index in the plan."""

    prompt: int
    patches: tuple[Patch, ...] = ()
    thoughts_from: int | None = None
    """Run whose thoughts are fed at every latent step, instead of this run's own."""
    capture: tuple[Site, ...] = ()
    """Places whose activation (before any patch there) is to be kept."""
    knockouts: tuple[Knockout, ...] = ()
    """What its steps cannot attend to."""
    remembers: tuple[tuple[int, int], ...] = ()
    """(latent, run) whose keys and values of that latent eot and the answer attend to, instead of this run's own. Both
    runs have the same prompt."""


def shifted(runs: Sequence[Run], by_runs: int, by_prompts: int) -> list[Run]:
    """The same runs further down a list: every reference to a run or a prompt moved along."""
    number = range(by_runs, by_runs + len(runs))
    return [replace(renumbered(run, number), prompt=run.prompt + by_prompts) for run in runs]


def renumbered(run: Run, number: Mapping[int, int] | Sequence[int]) -> Run:
    """The run with every reference to a run exchanged for its number."""
    return replace(
        run,
        patches=tuple(Patch(p.site, p.intervention.renumbered(number)) for p in run.patches),
        thoughts_from=None if run.thoughts_from is None else number[run.thoughts_from],
        remembers=tuple((latent, number[other]) for latent, other in run.remembers),
    )


@dataclass(frozen=True)
class Batch:
    """What is in the batch at one step."""

    taken_from: tuple[int, ...]
    """For each row of the batch, its index in the batch of the step before; at bot, its prompt."""
    batch_index: tuple[int, ...]
    """For each run, the row that it is at this step: its own, or its prompt's."""
    joined: tuple[bool, ...]
    """For each run, whether that row is its own."""


def steps_of(num_latents: int) -> tuple[Step, ...]:
    """The steps at which runs can be patched, in order."""
    return ("bot", *range(num_latents), "eot")


def batches(runs: Sequence[Run], num_latents: int) -> dict[Step, Batch]:
    """The batch of every step. Runs of one prompt lie side by side.

    Raises:
        UserError: a patch at a step that this run does not have.
    """
    first = _first_steps(runs, num_latents)
    found: dict[Step, Batch] = {}
    prompts = [run.prompt for run in runs]
    before = {~prompt: prompt for prompt in prompts}
    for now, step in enumerate(steps_of(num_latents)):
        # A row of the batch has a number: its run's, or ~prompt for the unpatched run of a prompt.
        rows = [i if first[i] <= now else ~prompt for i, prompt in enumerate(prompts)]
        prompt_of = {row: ~row if row < 0 else prompts[row] for row in rows}
        size = Counter(prompt_of.values())
        # Prompts with equally many rows lie side by side too: they are one matrix product.
        keys = [(size[prompt], prompt, row) for row, prompt in prompt_of.items()]
        order = [row for _, _, row in sorted(keys)]
        taken_from = tuple(before[row if row in before else ~prompt_of[row]] for row in order)
        before = {row: index for index, row in enumerate(order)}
        joined = tuple(row >= 0 for row in rows)
        found[step] = Batch(taken_from, tuple(before[row] for row in rows), joined)
    return found


def _first_steps(runs: Sequence[Run], num_latents: int) -> list[int]:
    """For each run the number of the first step at which it differs from its prompt's plain run."""
    steps = {step: i for i, step in enumerate(steps_of(num_latents))}
    never = len(steps)
    first = [never] * len(runs)
    for index, run in enumerate(runs):
        patched = [patch.site.step for patch in run.patches]
        blind = [step for knockout in run.knockouts for step in knockout.queries]
        blind += ["eot"] * bool(run.remembers)
        for step in (*patched, *blind, *(site.step for site in run.capture)):
            if step not in steps and not (step in blind and step == "answer"):
                raise UserError(
                    f"no step {step!r} for a run; this one has bot, eot and {num_latents} latent steps"
                )
        # Who cannot see something in the answer has a row of its own when it begins.
        first[index] = min([never, *(steps.get(step, never - 1) for step in patched + blind)])  # type: ignore[arg-type]
    changed = True
    while changed:  # once more for every link of a chain of runs that are fed each other's thoughts
        changed = False
        for index, run in enumerate(runs):
            if run.thoughts_from is None:
                continue
            # A run's thoughts differ from the step after the one at which it does; the last is never fed.
            same_prompt = runs[run.thoughts_from].prompt == run.prompt
            fed = first[run.thoughts_from] + 1 if same_prompt else 1
            if fed <= num_latents and fed < first[index]:
                first[index], changed = fed, True
    return first
