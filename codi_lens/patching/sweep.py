"""Running an experiment over pairs; `patching.api` has a function for each experiment.

For each pair the model runs on the clean and on the corrupted question. Denoising takes activations of the
clean run (the source) and puts them into the corrupted run (the base); noising goes the other way round
(Meng et al., arXiv 2202.05262; Wang et al., arXiv 2211.00593). What the answer gains shows what those
activations carry. The experiments (`codi_lens.patching.experiments`) say which activations.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Any

from codi_lens.choices import SITES
from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError, one_of, whole_number
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.experiments import Experiment, experiment_named
from codi_lens.patching.outcomes import sweep_pairs
from codi_lens.patching.places import check_row, rows_at, served_heads
from codi_lens.patching.readout import READOUTS
from codi_lens.patching.replacements import Replacement
from codi_lens.patching.result import PairOutcome, Sweep
from codi_lens.patching.settings import THOUGHT, Label, Settings

Progress = Callable[[PairOutcome], None]
"""Called with each pair's outcome as it is done."""


def make_settings(
    codi: HookedCodi,
    experiment: Experiment | str = "position_patching",
    *,
    layers: Sequence[Label] | None = None,
    positions: Sequence[Label] | None = None,
    num_latents: int | None = None,
    **options: Any,
) -> Settings:
    """Settings with every None filled from the model: all layers (or heads), all latents, its own number.

    Raises:
        UserError: a place or position that the model does not have, or an unknown option.
    """
    latents = codi.num_latents(num_latents)
    known = [field.name for field in fields(Settings)]
    for name in options:
        one_of(name, known, "option")
    one_of(options.get("answer_start", "stem"), READOUTS, "answer_start")
    site, cfg, names = (
        options.get("site", "resid_post"),
        codi.model.cfg,
        codi.loop.backend.hook_names,
    )
    if f"blocks.0.{site}" not in names:
        one_of(site, SITES, "site")
    layer_advice = _advice(cfg.n_layers, (THOUGHT, "a place such as 0.1 or 0.kv1"))
    position_advice = _advice(latents, ("bot", "eot"))
    rows = rows_at(site, _labels("layer", layers, range(cfg.n_layers), layer_advice), codi)
    for row in rows:
        check_row(row, codi)
    steps = _labels("position", positions, range(latents), position_advice)
    if any(step not in ("bot", "eot", *range(latents)) for step in steps):
        raise UserError(f"positions {list(steps)}: {position_advice}")
    settings = Settings(latents, rows, steps, **options)
    return experiment_named(experiment).filled(codi, settings)


def _advice(size: int, names: tuple[str, ...]) -> str:
    numbers = f"different numbers from 0 to {size - 1}" if size else "no numbers (there are none)"
    return f"give {numbers}, or {' or '.join(names)}"


def _labels(
    what: str, chosen: Sequence[Label] | None, every: Sequence[int], advice: str
) -> tuple[Label, ...]:
    if isinstance(chosen, str) or not isinstance(chosen, Iterable | None):
        raise UserError(f"{what}s {chosen!r}: a list is needed; {advice}")
    values = list(every if chosen is None else chosen)
    try:
        labels = tuple(v if isinstance(v, str) else whole_number(v, f"a {what}") for v in values)
    except UserError as error:
        raise UserError(f"{what}s {values}: {advice}") from error
    beyond = any(isinstance(label, int) and label >= len(every) for label in labels)
    if beyond or not labels or len(set(labels)) < len(labels):
        raise UserError(f"{what}s {values}: {advice}")
    return labels


def run_experiment(
    experiment: Experiment | str,
    codi: HookedCodi,
    pairs: Sequence[Pair],
    settings: Settings,
    *,
    replacement: Replacement | None = None,
    batch_rows: int | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Runs an experiment over the pairs; arguments as in `outcomes.sweep_pairs`."""
    experiment = experiment_named(experiment)
    outcomes = []
    for outcome in sweep_pairs(
        experiment, codi, pairs, settings, replacement=replacement, batch_rows=batch_rows
    ):
        outcomes.append(outcome)
        if progress is not None:
            progress(outcome)
    return make_sweep(experiment, codi, settings, outcomes)


def make_sweep(
    experiment: Experiment | str,
    codi: HookedCodi,
    settings: Settings,
    outcomes: Sequence[PairOutcome],
) -> Sweep:
    """The sweep that these outcomes, one per pair, make up."""
    return Sweep(
        experiment_named(experiment),
        settings,
        num_layers=codi.model.cfg.n_layers,
        empty_stem=not codi.tokens.stem(),
        has_eot=bool(codi.tokens.end()),
        served_heads=served_heads(codi),
        outcomes=tuple(outcomes),
        foreign_hooks=codi.foreign_hooks(),
        model_digest=codi.digest,
    )
