"""Sweeps with invented numbers, for what reads records and needs no model."""

import torch

from codi_lens.data.pairs import Pair, Variant
from codi_lens.patching.metrics import CELL_METRICS
from codi_lens.patching.plans import PLANS, Settings
from codi_lens.patching.result import DONOR_GIVEN, PairOutcome, RunRecord, Sweep
from codi_lens.patching.similarity import SIMILARITIES

SCRIPT = "<script>document.title = 'broken'</script>"


def invented_sweep(
    experiment="position_patching", *, pairs=4, layers=3, latents=3, seed=0, **options
):
    """A sweep with a peak in the middle; the first question holds markup."""
    generator = torch.Generator().manual_seed(seed)
    positions = options.pop("positions", tuple(range(latents)))
    rows = options.pop("rows", tuple(range(layers)))
    options = {"mode": "all", "controls": True} | options
    if experiment == "iterative_patching":
        options = {}
    settings = Settings(latents, rows, positions, **options)
    axes = PLANS[experiment](settings, pair_id=0, d_model=1).axes
    shape = tuple(map(len, axes.values()))
    names = CELL_METRICS + (SIMILARITIES if experiment == "iterative_patching" else (DONOR_GIVEN,))
    outcomes = []
    for i in range(pairs):
        metrics = {name: torch.rand(shape, generator=generator) - 0.1 for name in names}
        metrics["logit_diff"] = 8 * torch.rand(shape, generator=generator) * _peak(shape) - 4
        metrics["recovery"] = (metrics["logit_diff"] + 4) / 8
        metrics["flipped"] = (metrics["recovery"] > 0.5).float()
        if experiment == "iterative_patching":
            for values in metrics.values():
                values[3, :, :-1] = torch.nan
        else:
            for values in metrics.values():
                values[len(shape) and -3 :] *= 0.15  # the controls do little
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
        texts = {(0,) * len(shape): f"The answer is: {i} <b>"}
        outcomes.append(PairOutcome(pair, metrics, *runs, torch.zeros(1), texts=texts, donor=0))
    return Sweep(experiment, settings, axes, len(rows), False, tuple(outcomes))


def _peak(shape):
    rows, columns = shape[1], shape[2] if len(shape) > 2 else 1
    i, j = torch.arange(rows)[:, None] / rows, torch.arange(columns)[None] / columns
    hill = torch.exp(-8 * ((i - 0.6) ** 2 + (j - 0.4) ** 2))
    return hill if len(shape) > 2 else hill[:, 0]
