"""A function for every experiment: from a model and pairs to a sweep."""

from collections.abc import Sequence
from typing import Any

from codi_lens.choices import Direction, EffectChoice, RouteValues
from codi_lens.data.pairs import Pair
from codi_lens.errors import known_options
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.experiments import (
    INFLUENCE,
    ITERATIVE,
    KNOCKOUT,
    LAYERS,
    PATHS,
    POSITIONS,
    ROUTES,
    Experiment,
)
from codi_lens.patching.interventions import Intervention
from codi_lens.patching.plan import SourceOf
from codi_lens.patching.replacements import CUSTOM, custom, make_replacement
from codi_lens.patching.result import Sweep
from codi_lens.patching.settings import Label
from codi_lens.patching.sweep import Progress, make_settings, run_experiment

PutIn = str | Intervention | SourceOf
"""An intervention by name (`patching.replacements`), one for all places, or a function from a site to one."""


@known_options
def patch_positions(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    *,
    layers: Sequence[Label] | None = None,
    positions: Sequence[Label] | None = None,
    num_latents: int | None = None,
    site: str = "resid_post",
    intervention: PutIn = "source",
    data: Sequence[Pair] | None = None,
    strength: float = 1.0,
    effect: EffectChoice = "total",
    controls: bool = False,
    seed: int = 0,
    direction: Direction = "denoise",
    answer_start: str = "stem",
    min_gap: float = 1.0,
    batch_rows: int | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Patches every row × latent position of every pair, one cell at a time.

    Args:
        codi: the model.
        pairs: clean and corrupted questions; their prompts may differ in length.
        layers: rows of the map: layers, "thought" (the vector that is fed), heads ("2.1"), key/value heads ("2.kv0"),
            neurons ("2.n17"), hook points by name (`patching.places`); all layers, or all their heads, if None.
        positions: latents, and "bot" and "eot"; all latents if None.
        num_latents: thoughts; the model's own number if None.
        site: what of a layer: resid_pre, resid_mid, resid_post, attn_out, mlp_out; z, q or pattern (by head); k, v
            or kv (by key/value head); mlp_post; thought; or a hook point in a layer.
        intervention: what is put in: "source", "zero", "mean", "resample", "random", "steer", or an object.
        data: pairs over whose questions means are taken; these pairs if None.
        strength: how much is added, when steering.
        effect: "total", "direct", "indirect", or "all" three; see `patching.effects`.
        controls: whether to run them beside the effects.
        seed: of all that is drawn at random.
        direction: "denoise" patches the corrupted run, "noise" the clean one.
        answer_start: a readout; see `patching.readout`.
        min_gap: in logits; recovery is not defined for pairs whose runs are closer.
        batch_rows: runs side by side, at most; None: as many as should fit in memory.
        progress: called with each pair's outcome as it is done.

    Returns:
        Metrics [pair, effect, row, column (position)], the unpatched runs, the source activations.

    Raises:
        UserError: pairs, or settings, that the model cannot be run with.
    """
    return _run(POSITIONS, **locals())


@known_options
def patch_layers(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    *,
    layers: Sequence[Label] | None = None,
    positions: Sequence[Label] | None = None,
    num_latents: int | None = None,
    site: str = "resid_post",
    intervention: PutIn = "source",
    data: Sequence[Pair] | None = None,
    strength: float = 1.0,
    effect: EffectChoice = "total",
    controls: bool = False,
    seed: int = 0,
    direction: Direction = "denoise",
    answer_start: str = "stem",
    min_gap: float = 1.0,
    batch_rows: int | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Patches all latent positions of a row together, for every row: metrics have the one column "all".

    Arguments as in `patch_positions`.
    """
    return _run(LAYERS, **locals())


@known_options
def patch_iteratively(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    *,
    layers: Sequence[Label] | None = None,
    positions: Sequence[Label] | None = None,
    num_latents: int | None = None,
    site: str = "resid_post",
    intervention: PutIn = "source",
    data: Sequence[Pair] | None = None,
    strength: float = 1.0,
    starts: Sequence[Label] | None = (),
    seed: int = 0,
    direction: Direction = "denoise",
    answer_start: str = "stem",
    min_gap: float = 1.0,
    batch_rows: int | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Single, cumulative, chained and parallel patching: metrics [pair, strategy, row, iteration].

    The strategies are the labels of the dimension "effect"; `experiments.iterative.Iterative` says what each is.
    Arguments as in `patch_positions`; there are no other effects, and no controls. `starts`: positions at which
    chains start, the first one's beside them; None: all.
    """
    given = locals()
    if starts is None:
        latents = range(codi.num_latents(num_latents))
        given["starts"] = tuple(latents if positions is None else positions)
    return _run(ITERATIVE, **given)


@known_options
def patch_routes(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    *,
    layers: Sequence[Label] | None = None,
    positions: Sequence[Label] | None = None,
    num_latents: int | None = None,
    window: int = 0,
    values: RouteValues = "source",
    controls: bool = False,
    seed: int = 0,
    direction: Direction = "denoise",
    answer_start: str = "stem",
    min_gap: float = 1.0,
    batch_rows: int | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """State, keys, values or all of a latent exchanged: metrics [pair, latent or tail, route, latent].

    `experiments.routes.Routes` says what each is. Arguments as in `patch_positions`.

    Args:
        codi: the model.
        pairs: clean and corrupted questions.
        layers: whose keys and values are exchanged; all if None.
        window: layers that are exchanged together in rows of their own; 0: none.
        values: whose activations: the source run's, or those of the base run with the source's thought ("patched").
    """
    return _run(ROUTES, **locals())


@known_options
def patch_paths(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    *,
    senders: Sequence[str] = (),
    receivers: Sequence[str] = (),
    positions: Sequence[Label] | None = None,
    num_latents: int | None = None,
    site: str = "resid_post",
    intervention: PutIn = "source",
    data: Sequence[Pair] | None = None,
    strength: float = 1.0,
    effect: EffectChoice = "total",
    seed: int = 0,
    direction: Direction = "denoise",
    answer_start: str = "stem",
    min_gap: float = 1.0,
    batch_rows: int | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Path patching: metrics [pair, effect, sender, receiver].

    `experiments.paths.Paths` says how. Arguments as in `patch_positions`.

    Args:
        codi: the model.
        pairs: clean and corrupted questions.
        senders: places and their steps, such as "2.1@3", "mlp2@3" or "2@bot"; none: all heads and MLPs at `positions`.
        receivers: "2.1.q@3", "2.kv0.k@3", "2.kv0.v@3" (as all later steps read them), "2.1.k@3>5" (as one head reads
            it at one step), "mlp2@3", "thought@4", "logits", or a layer or hook point and its step; none: all thoughts
            and the logits.
        effect: "total" or "direct".
    """
    return _run(PATHS, **locals())


@known_options
def knock_out(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    *,
    layers: Sequence[Label] | None = None,
    num_latents: int | None = None,
    window: int = 0,
    seed: int = 0,
    direction: Direction = "noise",
    answer_start: str = "stem",
    min_gap: float = 1.0,
    batch_rows: int | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Attention knockout: metrics [pair, window of layers, from, to].

    `experiments.knockout.KnockOut` says what rows and columns are. Arguments as in `patch_positions`.

    Args:
        codi: the model.
        pairs: clean and corrupted questions; the clean ones are asked, under direction "denoise" the corrupted ones.
        layers: in which attention is blocked; all if None.
        window: layers that are blocked together beside all of them; 0: none.
    """
    return _run(KNOCKOUT, **locals())


@known_options
def measure_influence(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    *,
    positions: Sequence[Label] | None = None,
    num_latents: int | None = None,
    intervention: PutIn = "mean",
    data: Sequence[Pair] | None = None,
    strength: float = 1.0,
    controls: bool = False,
    seed: int = 0,
    direction: Direction = "noise",
    answer_start: str = "stem",
    min_gap: float = 1.0,
    batch_rows: int | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Exchanges one thought and compares the later ones: metrics [pair, effect, thought, later thought or "answer"].

    `experiments.influence.Influence` says how. Arguments as in `patch_positions`; by itself, the clean run's thought
    is set to its mean over the questions.
    """
    return _run(INFLUENCE, **locals())


def _run(
    experiment: Experiment,
    codi: HookedCodi,
    pairs: Sequence[Pair],
    batch_rows: int | None,
    progress: Progress | None,
    intervention: PutIn = "source",
    data: Sequence[Pair] | None = None,
    **options: Any,
) -> Sweep:
    name = intervention if isinstance(intervention, str) else CUSTOM
    settings = make_settings(codi, experiment, intervention=name, **options)
    experiment.check(settings)
    if isinstance(intervention, str):
        places = experiment.places(settings)
        replacement = make_replacement(codi, settings, pairs, data, places)
    else:
        replacement = custom(intervention)
    return run_experiment(
        experiment,
        codi,
        pairs,
        settings,
        replacement=replacement,
        batch_rows=batch_rows,
        progress=progress,
    )
