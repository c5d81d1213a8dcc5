"""Running an experiment's plan over pairs: position-wise, layer-wise and iterative patching.

For each pair the model runs on the clean and on the corrupted question. Denoising takes activations of the
clean run (the source) and puts them into the corrupted run (the base); noising goes the other way round
(Meng et al., arXiv 2202.05262; Wang et al., arXiv 2211.00593). What the answer gains shows what those
activations carry. `codi_lens.patching.plans` says which activations; several pairs run side by side.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Any

from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError, one_of, whole_number
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.plans import PLANS, THOUGHT, Label, Settings
from codi_lens.patching.result import PairOutcome, Sweep
from codi_lens.patching.runner import sweep_pairs


def make_settings(
    codi: HookedCodi,
    *,
    layers: Sequence[Label] | None = None,
    positions: Sequence[Label] | None = None,
    num_latents: int | None = None,
    **options: Any,
) -> Settings:
    """Settings with every None filled from the model: all layers, all latents, its own number.

    Raises:
        UserError: a layer or position that the model does not have, or an unknown option.
    """
    latents = codi.num_latents(num_latents)
    known = [field.name for field in fields(Settings)]
    for name in options:
        one_of(name, known, "option")
    return Settings(
        latents,
        _axis("layer", layers, codi.model.cfg.n_layers, (THOUGHT,)),
        _axis("position", positions, latents, ("bot", "eot")),
        **options,
    )


def _axis(
    what: str, chosen: Sequence[Label] | None, size: int, names: tuple[str, ...]
) -> tuple[Label, ...]:
    numbers = f"different numbers from 0 to {size - 1}" if size else "no numbers (there are none)"
    advice = f"give {numbers}, or {', '.join(names)}"
    if isinstance(chosen, str) or not isinstance(chosen, Iterable | None):
        raise UserError(f"{what}s {chosen!r}: a list is needed; {advice}")
    values = list(range(size) if chosen is None else chosen)
    try:
        labels = tuple(v if v in names else whole_number(v, f"a {what}") for v in values)
    except UserError as error:
        raise UserError(f"{what}s {values}: {advice}") from error
    beyond = any(isinstance(label, int) and label >= size for label in labels)
    if beyond or not labels or len(set(labels)) < len(labels):
        raise UserError(f"{what}s {values}: {advice}")
    return labels


def run_experiment(
    experiment: str,
    codi: HookedCodi,
    pairs: Sequence[Pair],
    settings: Settings,
    *,
    batch_rows: int | None = None,
    progress: Callable[[PairOutcome], None] | None = None,
    **options: Any,
) -> Sweep:
    """Runs one of `PLANS` over the pairs; `options` as in `sweep_pairs`.

    Warns of hooks that somebody left on the model: the runs go through them.
    """
    if left := codi.foreign_hooks():
        warnings.warn(
            f"the model has hooks that are not this sweep's, on {', '.join(left)}; its numbers are "
            "those of the model with these hooks (model.reset_hooks() removes TransformerLens' own)",
            stacklevel=3,
        )
    outcomes = []
    for outcome in sweep_pairs(experiment, codi, pairs, settings, batch_rows=batch_rows, **options):
        outcomes.append(outcome)
        if progress is not None:
            progress(outcome)
    return make_sweep(experiment, codi, settings, outcomes)


def make_sweep(
    experiment: str, codi: HookedCodi, settings: Settings, outcomes: Sequence[PairOutcome]
) -> Sweep:
    """The sweep that these outcomes, one per pair, make up."""
    axes = PLANS[experiment](settings, pair_id=0, d_model=1).axes
    return Sweep(
        experiment,
        settings,
        axes,
        num_layers=codi.model.cfg.n_layers,
        empty_stem=not codi.tokens.stem(),
        outcomes=tuple(outcomes),
        foreign_hooks=codi.foreign_hooks(),
    )


def patch_positions(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    *,
    batch_rows: int | None = None,
    progress: Callable[[PairOutcome], None] | None = None,
    **options: Any,
) -> Sweep:
    """Patches every layer × latent position of every pair, one cell at a time.

    Args:
        codi: the model.
        pairs: clean and corrupted questions; their prompts may differ in length.
        batch_rows: as in `sweep_pairs`.
        progress: called with each pair's outcome as it is done.
        options: `layers`, `positions`, `num_latents` and the fields of `plans.Settings`: `site`, `mode`,
            `direction`, `answer_start`, `min_gap`, `controls`, `seed`.

    Returns:
        Metrics [pair, layer, position], the unpatched runs, and the source activations.
    """
    settings = make_settings(codi, **options)
    return run_experiment(
        "position_patching", codi, pairs, settings, batch_rows=batch_rows, progress=progress
    )


def patch_layers(codi: HookedCodi, pairs: Sequence[Pair], **options: Any) -> Sweep:
    """Patches all latent positions of a layer together, for every layer: metrics [pair, layer].

    Arguments as in `patch_positions`.
    """
    return run_experiment("layer_patching", codi, pairs, make_settings(codi, **options))


def patch_iteratively(codi: HookedCodi, pairs: Sequence[Pair], **options: Any) -> Sweep:
    """Single, cumulative, chained and parallel patching: metrics [pair, strategy, layer, iteration].

    Arguments as in `patch_positions`; see `plans.iterative_plan` for the strategies.
    """
    return run_experiment("iterative_patching", codi, pairs, make_settings(codi, **options))
