"""Sweeps with invented numbers, for what reads records and needs no model."""

import torch

from codi_lens.data.pairs import Pair, Variant
from codi_lens.patching.experiments import experiment_named
from codi_lens.patching.metrics import METRICS
from codi_lens.patching.result import DONOR_GIVEN, PairOutcome, RunRecord, Sweep
from codi_lens.patching.settings import Settings
from codi_lens.patching.similarity import SIMILARITIES

CELL_METRICS = tuple(name for name, metric in METRICS.items() if metric.compute)
"""What is measured of every run."""
SCRIPT = "<script>document.title = 'broken'</script>"


def invented_sweep(
    experiment="position_patching", *, pairs=4, layers=3, latents=3, seed=0, **options
):
    """A sweep with a peak in the middle; the first question holds markup."""
    generator = torch.Generator().manual_seed(seed)
    positions = options.pop("positions", tuple(range(latents)))
    rows = options.pop("rows", tuple(range(layers)))
    experiment = experiment_named(experiment)
    options = {"effect": "all", "controls": True} | options
    if experiment.iterates:
        options = {}
    settings = Settings(latents, rows, positions, **options)
    shape = tuple(map(len, experiment.axes(settings).values()))
    names = CELL_METRICS + (SIMILARITIES if experiment.iterates else (DONOR_GIVEN,))
    outcomes = []
    for i in range(pairs):
        metrics = {name: torch.rand(shape, generator=generator) - 0.1 for name in names}
        metrics["logit_diff"] = 8 * torch.rand(shape, generator=generator) * _peak(shape) - 4
        metrics["recovery"] = (metrics["logit_diff"] + 4) / 8
        metrics["flipped"] = (metrics["recovery"] > 0.5).float()
        if experiment.iterates:
            for values in metrics.values():
                values[3, :, :-1] = torch.nan
        else:
            for values in metrics.values():
                values[-3:] *= 0.15  # the controls do little
        runs = [
            RunRecord(
                dict.fromkeys(CELL_METRICS, 0.0) | {"logit_diff": ld, "recovery": r}, text, True
            )
            for ld, r, text in ((-4.0, 0.0, "The answer is: 9"), (4.0, 1.0, "The answer is: 7"))
        ]
        question = f"{SCRIPT} & is 3 < 4?" if i == 0 else f"What is {i} plus 7?"
        pair = Pair(
            i,
            Variant(question, i + 7, (i, 7), (i,)),
            Variant(f"What is {i} plus 9?", i + 9),
            "sum",
            "ab"[i % 2],
        )
        texts = {(0, 0, 0): f"The answer is: {i} <b>"}
        outcomes.append(
            PairOutcome(pair, metrics, *runs, torch.zeros(1, 1, 1), texts=texts, donor=0)
        )
    return Sweep(experiment, settings, len(rows), False, tuple(outcomes))


def _peak(shape):
    _, rows, columns = shape
    i, j = torch.arange(rows)[:, None] / rows, torch.arange(columns)[None] / columns
    return torch.exp(-8 * ((i - 0.6) ** 2 + (j - 0.4) ** 2))
