"""Checks that keep a sweep honest: questions that fit, before it starts, and numbers that are numbers."""

import warnings
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError
from codi_lens.model.hooked_codi import DECODED, HookedCodi
from codi_lens.model.hooks import by_query
from codi_lens.patching.experiments.base import Axes
from codi_lens.patching.metrics import METRICS
from codi_lens.patching.plan import BASE, DONOR, SOURCE, Plan, grid_of
from codi_lens.patching.settings import Settings


class NotFinite(UserError):
    """A metric that is NaN or infinite where it is defined: the model's arithmetic failed."""


def check_pairs(codi: HookedCodi, pairs: Sequence[Pair], num_latents: int) -> None:
    """Checks that there are pairs, that the model can be asked every question, and has room to answer it.

    Raises:
        UserError: no list of pairs; or names the pair, and what is wrong with its question or answer.
    """
    if isinstance(pairs, Pair) or not isinstance(pairs, Sequence):
        raise UserError(f"pairs is {type(pairs).__name__}; it must be a list of pairs")
    if not pairs:
        raise UserError("there are no pairs to run")
    for pair in pairs:
        if not isinstance(pair, Pair):
            raise UserError(f"pairs holds {pair!r}; it must be a list of codi_lens.Pair")
        for side, variant in (("clean", pair.clean), ("corrupted", pair.corrupted)):
            try:
                codi.tokens.is_right("", variant.answer)  # or a judge that cannot would end the run
                behind = num_latents + len(codi.tokens.end())
                behind += max(DECODED, len(codi.tokens.answer(variant.answer)))
                codi.tokens.check_length(len(codi.tokens.prompt(variant.question)) + behind)
            except UserError as error:
                raise UserError(f"pair {pair.pair_id}, {side}: {error}") from error


def check_patterns(codi: HookedCodi, pairs: Sequence[Pair], settings: Settings) -> None:
    """Checks that attention patterns are exchanged between prompts of one length alone.

    Raises:
        UserError: names the first pair whose prompts differ in length.
    """
    if _has_patterns(settings):
        why = "attention patterns can be exchanged between prompts of one length only (z, or q and k, can for any)"
        check_lengths(codi, pairs, why)


def check_lengths(codi: HookedCodi, pairs: Sequence[Pair], why: str) -> None:
    """Checks that the two prompts of every pair are equally long; `why` they must be.

    Raises:
        UserError: names the first pair whose prompts differ in length.
    """
    for pair in pairs:
        lengths = [len(codi.tokens.prompt(side.question)) for side in (pair.clean, pair.corrupted)]
        if lengths[0] != lengths[1]:
            raise UserError(
                f"pair {pair.pair_id}: its prompts have {lengths[0]} and {lengths[1]} tokens; {why}"
            )


def without_unequal(
    codi: HookedCodi, pairs: Sequence[Pair], donors: Sequence[Pair | None], settings: Settings
) -> list[Pair | None]:
    """The donors, where patterns are exchanged those whose prompt is as long alone."""
    if not _has_patterns(settings):
        return list(donors)

    def length(pair: Pair) -> int:
        return len(codi.tokens.prompt(pair.clean.question))

    return [
        donor if donor is not None and length(donor) == length(pair) else None
        for pair, donor in zip(pairs, donors, strict=True)
    ]


def _has_patterns(settings: Settings) -> bool:
    return any(by_query(site.name) for place in grid_of(settings) for site in place)


def warn_of_hooks(codi: HookedCodi) -> None:
    """Warns of hooks that somebody left on the model: the runs go through them."""
    if left := codi.foreign_hooks():
        warnings.warn(
            f"the model has hooks that are not this sweep's, on {', '.join(left)}; its numbers are "
            "those of the model with these hooks (codi.model.reset_hooks() removes those of TransformerLens, "
            "the handle that torch gave removes its own)",
            stacklevel=3,
        )


def check_finite(
    values: Mapping[str, Float[Tensor, " runs"]], plan: Plan, axes: Axes, pair: Pair
) -> None:
    """Checks the metrics of all runs of a pair.

    Raises:
        NotFinite: names the pair, the metric, and the first run in which it is no number.
    """
    for name, of_runs in values.items():
        wrong = of_runs.isinf() if METRICS[name].may_be_undefined else ~of_runs.isfinite()
        if wrong.any():
            run = int(wrong.nonzero()[0])
            raise NotFinite(
                f"pair {pair.pair_id}: {name} is {float(of_runs[run])} in "
                f"{_name(plan, axes, run)}: the model's numbers overflow in this dtype, or its "
                "weights are not finite; float32 has more room than float16"
            )


def _name(plan: Plan, axes: Axes, run: int) -> str:
    """What a run of the plan is, in words."""
    if run in (BASE, SOURCE) or plan.runs[run].prompt == DONOR:
        return ("the base run", "the source run", "the donor's run")[run]
    cells = torch.nonzero(plan.cells == run).tolist()
    if not cells:
        return f"patched run {run}"
    labels = zip(axes.items(), cells[0], strict=True)
    return "the patched run at " + ", ".join(f"{name} {known[i]}" for (name, known), i in labels)
