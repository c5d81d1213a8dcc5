"""Running an experiment over pairs: position-wise, layer-wise and iterative patching.

For each pair the model runs on the clean and on the corrupted question. Denoising takes activations of the
clean run (the source) and puts them into the corrupted run (the base); noising goes the other way round
(Meng et al., arXiv 2202.05262; Wang et al., arXiv 2211.00593). What the answer gains shows what those
activations carry. The experiments (`codi_lens.patching.experiments`) say which activations.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Any

from codi_lens.choices import Direction, EffectChoice, ResidSite
from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError, known_options, one_of, whole_number
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.experiments import (
    ITERATIVE,
    LAYERS,
    POSITIONS,
    Experiment,
    experiment_named,
)
from codi_lens.patching.outcomes import sweep_pairs
from codi_lens.patching.readout import READOUTS
from codi_lens.patching.result import PairOutcome, Sweep
from codi_lens.patching.settings import THOUGHT, Label, Settings

Progress = Callable[[PairOutcome], None]
"""Called with each pair's outcome as it is done."""


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
    one_of(options.get("answer_start", "stem"), READOUTS, "answer_start")
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
    experiment: Experiment | str,
    codi: HookedCodi,
    pairs: Sequence[Pair],
    settings: Settings,
    *,
    batch_rows: int | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Runs an experiment over the pairs; `batch_rows` as in `outcomes.sweep_pairs`."""
    experiment = experiment_named(experiment)
    outcomes = []
    for outcome in sweep_pairs(experiment, codi, pairs, settings, batch_rows=batch_rows):
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
        outcomes=tuple(outcomes),
        foreign_hooks=codi.foreign_hooks(),
    )


@known_options
def patch_positions(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    *,
    layers: Sequence[Label] | None = None,
    positions: Sequence[Label] | None = None,
    num_latents: int | None = None,
    site: ResidSite = "resid_post",
    effect: EffectChoice = "total",
    controls: bool = False,
    seed: int = 0,
    direction: Direction = "denoise",
    answer_start: str = "stem",
    min_gap: float = 1.0,
    batch_rows: int | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Patches every layer × latent position of every pair, one cell at a time.

    Args:
        codi: the model.
        pairs: clean and corrupted questions; their prompts may differ in length.
        layers: numbers, and "thought" (the vector that is fed); all layers if None.
        positions: latents, and "bot" and "eot"; all latents if None.
        num_latents: thoughts; the model's own number if None.
        site: the hook point in a layer.
        effect: "total", "direct", "indirect", or "all" three; see `patching.effects`.
        controls: whether to run them beside the effects.
        seed: of the controls.
        direction: "denoise" patches the corrupted run, "noise" the clean one.
        answer_start: a readout; see `patching.readout`.
        min_gap: in logits; recovery is not defined for pairs whose runs are closer.
        batch_rows: runs side by side, at most; None: as many as should fit in memory.
        progress: called with each pair's outcome as it is done.

    Returns:
        Metrics [pair, effect, row (layer), column (position)], the unpatched runs, the source activations.

    Raises:
        UserError: pairs, or settings, that the model cannot be run with.
    """
    settings = make_settings(
        codi,
        layers=layers,
        positions=positions,
        num_latents=num_latents,
        site=site,
        effect=effect,
        controls=controls,
        seed=seed,
        direction=direction,
        answer_start=answer_start,
        min_gap=min_gap,
    )
    return run_experiment(
        POSITIONS, codi, pairs, settings, batch_rows=batch_rows, progress=progress
    )


@known_options
def patch_layers(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    *,
    layers: Sequence[Label] | None = None,
    positions: Sequence[Label] | None = None,
    num_latents: int | None = None,
    site: ResidSite = "resid_post",
    effect: EffectChoice = "total",
    controls: bool = False,
    seed: int = 0,
    direction: Direction = "denoise",
    answer_start: str = "stem",
    min_gap: float = 1.0,
    batch_rows: int | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Patches all latent positions of a layer together, for every layer: metrics have the one column "all".

    Arguments as in `patch_positions`.
    """
    settings = make_settings(
        codi,
        layers=layers,
        positions=positions,
        num_latents=num_latents,
        site=site,
        effect=effect,
        controls=controls,
        seed=seed,
        direction=direction,
        answer_start=answer_start,
        min_gap=min_gap,
    )
    return run_experiment(LAYERS, codi, pairs, settings, batch_rows=batch_rows, progress=progress)


@known_options
def patch_iteratively(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    *,
    layers: Sequence[Label] | None = None,
    positions: Sequence[Label] | None = None,
    num_latents: int | None = None,
    site: ResidSite = "resid_post",
    direction: Direction = "denoise",
    answer_start: str = "stem",
    min_gap: float = 1.0,
    batch_rows: int | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Single, cumulative, chained and parallel patching: metrics [pair, strategy, layer, iteration].

    The strategies are the labels of the dimension "effect"; `experiments.iterative.Iterative` says what each is.
    Arguments as in `patch_positions`; there are no other effects, and no controls.
    """
    settings = make_settings(
        codi,
        layers=layers,
        positions=positions,
        num_latents=num_latents,
        site=site,
        direction=direction,
        answer_start=answer_start,
        min_gap=min_gap,
    )
    return run_experiment(
        ITERATIVE, codi, pairs, settings, batch_rows=batch_rows, progress=progress
    )
