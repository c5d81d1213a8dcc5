"""Is what a probe reads used there? The subspace that it sees, exchanged between the sides of pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from codi_lens.analysis.labels import labels_of
from codi_lens.analysis.probes.maps import OWN, Probes
from codi_lens.choices import Direction
from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError, known_options
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Site
from codi_lens.patching.api import PutIn, patch_positions
from codi_lens.patching.interventions import InSubspace
from codi_lens.patching.plan import SOURCE, vector_at
from codi_lens.patching.result import Sweep


@dataclass(frozen=True)
class Usage:
    """Sweeps over the cells of some probes, on pairs whose sides differ in what is read."""

    subspace: Sweep
    """The span of each probe's weights is exchanged."""
    random: Sweep
    """A random subspace of the same rank is."""
    whole: Sweep
    """The whole activation is."""


@known_options
def measure_usage(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    probes: Probes,
    *,
    direction: Direction = "denoise",
    batch_rows: int | None = None,
) -> Usage:
    """Patches every cell of some probes: what they see, as much at random, and all there is.

    Args:
        codi: the model that was probed.
        pairs: those whose sides have the same label are left out; of the user's own labels, none is.
        probes: of this model.
        direction, batch_rows: as in `patch_positions`.

    Raises:
        UserError: no pair whose sides differ in the label.
    """
    chosen = [pair for pair in pairs if _differs(pair, probes.label)]
    if not chosen:
        raise UserError(
            f"in none of the {len(pairs)} pairs do the sides differ in {probes.label}; give others"
        )
    settings = probes.settings
    cell_at = {
        vector_at(settings, row, column): (row, column)
        for row in probes.rows
        for column in probes.columns
    }
    generator = torch.Generator().manual_seed(settings.seed)
    seen = {cell: probes.intervention(*cell) for cell in cell_at.values()}
    drawn = {cell: _random(one, generator) for cell, one in seen.items()}

    def patched(what: PutIn) -> Sweep:
        return patch_positions(
            codi,
            chosen,
            layers=probes.rows,
            positions=probes.columns,
            num_latents=settings.num_latents,
            site=settings.site,
            intervention=what,
            seed=settings.seed,
            direction=direction,
            batch_rows=batch_rows,
        )

    def at(found: dict[tuple[int | str, int | str], InSubspace]) -> PutIn:
        def of(site: Site) -> InSubspace:
            return found[cell_at[site]]

        return of

    return Usage(patched(at(seen)), patched(at(drawn)), patched("source"))


def _differs(pair: Pair, label: str) -> bool:
    """Whether the sides have different labels, as far as is known."""
    if label == OWN:
        return True
    clean, corrupted = labels_of([pair.clean, pair.corrupted], label)
    return clean != corrupted


def _random(like: InSubspace, generator: torch.Generator) -> InSubspace:
    """A random subspace of the same rank."""
    drawn = torch.randn(like.basis.shape, generator=generator, dtype=torch.float64)
    return InSubspace((SOURCE,), torch.linalg.qr(drawn)[0])
