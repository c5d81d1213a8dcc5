"""Position-wise patching: which (layer, latent position) carries the computation.

For each pair the model runs on the clean and on the corrupted question. Denoising takes an activation
of the clean run (the source) and puts it into the corrupted run (the base) at one layer and one latent
position; what the answer gains shows what that activation carries. Later thoughts are recomputed by the
loop (`regenerate`, the total effect) or held at the base run's (`freeze`, the direct effect, through
attention to the patched position alone).

Denoising and noising after Meng et al. (arXiv 2202.05262) and Wang et al. (arXiv 2211.00593).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from codi_lens.answers import AnswerPair, contrast, is_correct
from codi_lens.codi import HookedCodi
from codi_lens.errors import UserError
from codi_lens.hooks import Site
from codi_lens.metrics import CELL_METRICS, Direction, Readout, cell_metrics, sides
from codi_lens.pairs import Pair
from codi_lens.patching import Patch, Row, read_answers, run_rows

Mode = Literal["regenerate", "freeze"]
"""What happens after a patch at a latent step: regenerate: later thoughts are recomputed from what the
model now has; freeze: the inputs of all later steps are held at the base run's."""
MODES: tuple[Mode, ...] = ("regenerate", "freeze")
BASE, SOURCE = 0, 1
"""Index, among a pair's rows, of the run that is patched into and of the run that is taken from."""


@dataclass(frozen=True)
class SweepSettings:
    """What is patched, and how it is read."""

    num_latents: int
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    """Latent positions, 0 .. num_latents - 1."""
    mode: Mode = "regenerate"
    direction: Direction = "denoise"
    min_gap: float = 1.0
    """In logits: pairs whose clean and corrupted runs are closer have no recovery."""


@dataclass(frozen=True)
class RunRecord:
    """An unpatched run of one pair: the cell metrics of it, and what it says when decoded greedily."""

    metrics: dict[str, float]
    text: str
    correct: bool


@dataclass(frozen=True)
class PairOutcome:
    """All that was measured on one pair."""

    pair: Pair
    metrics: dict[str, Float[Tensor, "layer position"]]
    base: RunRecord
    source: RunRecord
    activations: Float[Tensor, "layer position d_model"]
    """The source run's, at every cell."""


@dataclass(frozen=True)
class Sweep:
    """Position-wise patching of a list of pairs."""

    settings: SweepSettings
    outcomes: tuple[PairOutcome, ...]
    num_layers: int
    """Layers that the model has, patched or not."""

    @property
    def metrics(self) -> dict[str, Float[Tensor, "pair layer position"]]:
        """Every metric of every cell; NaN where a pair has none."""
        return {
            name: torch.stack([outcome.metrics[name] for outcome in self.outcomes])
            for name in CELL_METRICS
        }

    @property
    def pairs(self) -> list[Pair]:
        """The pairs, in the order of the first axis of `metrics`."""
        return [outcome.pair for outcome in self.outcomes]

    def structural_zeros(self) -> Bool[Tensor, "layer position"]:
        """Cells that are zero by construction."""
        return structural_zeros(self.settings, self.num_layers)


def structural_zeros(settings: SweepSettings, num_layers: int) -> Bool[Tensor, "layer position"]:
    """Cells of a resid_post map that cannot have an effect, whatever the weights.

    The last layer's resid_post at a latent step feeds nothing but the next thought: at the last latent
    that one is never fed, and under `freeze` none is.
    """
    zeros = torch.zeros(len(settings.layers), len(settings.positions), dtype=torch.bool)
    for i, layer in enumerate(settings.layers):
        for j, position in enumerate(settings.positions):
            unread = position == settings.num_latents - 1 or settings.mode == "freeze"
            zeros[i, j] = layer == num_layers - 1 and unread
    return zeros


def sweep_settings(
    codi: HookedCodi,
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    num_latents: int | None = None,
    mode: Mode = "regenerate",
    direction: Direction = "denoise",
    min_gap: float = 1.0,
) -> SweepSettings:
    """Settings with every None filled from the model: all layers, all latents, its own number.

    Raises:
        UserError: a layer or position that the model does not have, or an unknown mode or direction.
    """
    latents = codi.num_latents(num_latents)
    if mode not in MODES:
        raise UserError(f"no mode {mode!r}; known are {', '.join(MODES)}")
    if direction not in ("denoise", "noise"):
        raise UserError(f"no direction {direction!r}; known are denoise, noise")
    return SweepSettings(
        latents,
        _axis("layer", layers, codi.model.cfg.n_layers),
        _axis("latent position", positions, latents),
        mode,
        direction,
        min_gap,
    )


def _axis(what: str, chosen: Sequence[int] | None, size: int) -> tuple[int, ...]:
    if size == 0:
        raise UserError(f"there is no {what} to patch; this run has 0")
    values = tuple(range(size)) if chosen is None else tuple(chosen)
    odd = [value for value in values if not 0 <= value < size]
    if odd or not values or len(set(values)) < len(values):
        raise UserError(f"{what}s {list(values)}: give different numbers from 0 to {size - 1}")
    return values


def patch_positions(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    num_latents: int | None = None,
    mode: Mode = "regenerate",
    direction: Direction = "denoise",
    min_gap: float = 1.0,
    batch_rows: int = 256,
    progress: Callable[[PairOutcome], None] | None = None,
) -> Sweep:
    """Patches resid_post at every layer × latent position of every pair, one cell at a time.

    Args:
        codi: the model.
        pairs: clean and corrupted questions; their prompts may differ in length.
        layers, positions: which cells; None: all of them.
        num_latents: how many thoughts the model has; None: as trained.
        mode: `regenerate` (total effect) or `freeze` (direct effect).
        direction: `denoise` (clean into corrupted) or `noise` (corrupted into clean).
        min_gap: in logits, see `metrics.recovery_is_defined`.
        batch_rows: runs side by side, at most (a pair is never split).
        progress: called with each pair's outcome as it is done.

    Returns:
        Metrics [pair, layer, position], the unpatched runs, and the source activations.
    """
    settings = sweep_settings(
        codi,
        layers=layers,
        positions=positions,
        num_latents=num_latents,
        mode=mode,
        direction=direction,
        min_gap=min_gap,
    )
    outcomes = []
    for outcome in sweep_pairs(codi, pairs, settings, batch_rows=batch_rows):
        outcomes.append(outcome)
        if progress is not None:
            progress(outcome)
    return Sweep(settings, tuple(outcomes), codi.model.cfg.n_layers)


def sweep_pairs(
    codi: HookedCodi, pairs: Sequence[Pair], settings: SweepSettings, *, batch_rows: int = 256
) -> Iterator[PairOutcome]:
    """Runs `settings` on the pairs, several side by side, and yields each pair's outcome in order."""
    if not pairs:
        raise UserError("there are no pairs to run")
    plan = cell_rows(settings)
    side_by_side = max(1, batch_rows // len(plan))
    for start in range(0, len(pairs), side_by_side):
        yield from _run_batch(codi, pairs[start : start + side_by_side], settings, plan)


def cell_rows(settings: SweepSettings) -> list[Row]:
    """The rows of one pair: base (prompt 0), source (prompt 1), then a row per cell, layer by layer."""
    sites = [
        Site(f"blocks.{layer}.hook_resid_post", position)
        for layer in settings.layers
        for position in settings.positions
    ]
    frozen = BASE if settings.mode == "freeze" else None
    cells = [Row(BASE, (Patch(str(s.name), s.step, SOURCE),), frozen) for s in sites]  # type: ignore[arg-type]
    return [Row(BASE), Row(SOURCE, watch=tuple(sites)), *cells]


def shifted(rows: Sequence[Row], by_rows: int, by_prompts: int) -> list[Row]:
    """The same rows further down a batch: every reference to a row or a prompt moved along."""

    def moved(source: int | Tensor) -> int | Tensor:
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


@torch.no_grad()
def _run_batch(
    codi: HookedCodi, pairs: Sequence[Pair], settings: SweepSettings, plan: Sequence[Row]
) -> Iterator[PairOutcome]:
    size = len(plan)
    rows = [row for i in range(len(pairs)) for row in shifted(plan, i * size, 2 * i)]
    names = sides(settings.direction)
    questions = [getattr(pair, name).question for pair in pairs for name in names]
    run = run_rows(codi, questions, rows, settings.num_latents)

    unpatched = torch.tensor([i * size + j for i in range(len(pairs)) for j in (BASE, SOURCE)])
    decoded = codi.decode(run.state.select(unpatched.to(codi.loop.device)))
    texts = [codi.tokens.text(ids) for ids in decoded]
    answers = [_answer_pair(codi, pair) for pair in pairs]
    pair_of_row = [i for i in range(len(pairs)) for _ in plan]
    readouts = read_answers(codi, run, pair_of_row, answers)
    for i, (pair, answer, readout) in enumerate(zip(pairs, answers, readouts, strict=True)):
        watched = [run.watched[i * size + SOURCE, site] for site in plan[SOURCE].watch]
        yield _outcome(pair, answer, readout, texts[2 * i : 2 * i + 2], watched, settings)


def _outcome(
    pair: Pair,
    answer: AnswerPair,
    readout: Readout,
    texts: Sequence[str],
    watched: Sequence[Tensor],
    settings: SweepSettings,
) -> PairOutcome:
    values = cell_metrics(
        readout,
        answer,
        base=BASE,
        source=SOURCE,
        direction=settings.direction,
        min_gap=settings.min_gap,
    )
    shape = (len(settings.layers), len(settings.positions))
    base, source = (
        RunRecord(
            {name: float(value[row]) for name, value in values.items()},
            texts[row],
            is_correct(texts[row], getattr(pair, side).answer),
        )
        for row, side in zip((BASE, SOURCE), sides(settings.direction), strict=True)
    )
    return PairOutcome(
        pair,
        {name: value[2:].reshape(shape).cpu() for name, value in values.items()},
        base,
        source,
        torch.stack(list(watched)).reshape(*shape, -1).cpu(),
    )


def _answer_pair(codi: HookedCodi, pair: Pair) -> AnswerPair:
    return contrast(
        codi.tokens.tokenizer,
        codi.config.answer_stem,
        pair.clean.answer,
        pair.corrupted.answer,
        codi.ids.eos,
    )
