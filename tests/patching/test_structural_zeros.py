"""The cells that are zero by construction are those whose metrics do not move, in random models."""

import pytest
import torch

from codi_lens import HookedCodi, Pair, Variant
from codi_lens.choices import SITES
from codi_lens.patching.experiments import ITERATIVE, LAYERS, POSITIONS
from codi_lens.patching.readout import READOUTS
from codi_lens.patching.sweep import make_settings, run_experiment
from tests.models.invented import CELL_METRICS
from tests.models.tiny import tiny_config, write_tiny

PAIRS = [
    Pair(0, Variant("12 plus 30?", 42), Variant("12 plus 31?", 43)),
    Pair(1, Variant("one plus two plus 3?", 6), Variant("12 plus 3?", 15)),  # lengths differ
    Pair(2, Variant("5 plus 6?", 991234), Variant("5 plus 7?", 9955)),  # differ at the second token
    Pair(3, Variant("3 plus 4?", 7), Variant("3 plus 5?", 8)),
]
READ = [name for name in CELL_METRICS if name != "flipped"]
"""Metrics of the number alone; whether an answer flipped is read at eot and in the stem as well."""
MODELS = {
    "three layers": {"seed": 3, "layers": 3},
    "one layer, two end tokens": {"seed": 4, "layers": 1, "config": {"remove_eos": False}},
    "no stem": {"seed": 6, "layers": 2, "tied": False, "config": {"answer_stem": ""}},
}


@pytest.fixture(scope="module", params=list(MODELS))
def codi(request, tmp_path_factory):
    options = dict(MODELS[request.param])
    options["config"] = tiny_config(**options.get("config", {}))
    codi = HookedCodi.from_pretrained(
        write_tiny(tmp_path_factory.mktemp("zeros"), **options), dtype=torch.float64
    )
    codi.model.unembed.b_U.data[codi.ids.eos] = (
        3.0  # or every answer goes on to the last token allowed
    )
    return codi


def check_zeros(experiment, codi, **options):
    """Metrics are those of the base run at the structural zeros, and nowhere else; returns the zeros."""
    rows = ("thought", *range(codi.model.cfg.n_layers))
    if experiment.has_controls:
        options |= {"effect": options.get("effect", "all"), "controls": True}
    settings = make_settings(codi, layers=rows, **options)
    sweep = run_experiment(experiment, codi, PAIRS, settings)
    moves = torch.zeros(sweep.zeros.shape, dtype=torch.float64)
    for name in READ:
        before = torch.tensor([o.base.metrics[name] for o in sweep.outcomes], dtype=torch.float64)
        moved = (sweep.values(name) - before.reshape(-1, 1, 1, 1)).abs()
        moves = torch.maximum(moves, moved.nan_to_num().amax(0))
    absent = sweep.values("kl_divergence").isnan().all(0)
    assert absent.any() == (experiment is ITERATIVE and len(settings.positions) > 1)
    assert not sweep.zeros[absent].any()
    for i, effect in enumerate(sweep.axes["effect"]):
        there = ~absent[i]
        still, zeros = (moves[i] < 1e-9) & there, sweep.structural_zeros(effect)
        assert torch.equal(zeros, sweep.zeros[i])
        if effect == "identity":  # moves nothing anywhere
            assert still.all()
            continue
        wrong = [
            (str(effect), sweep.axes["row"][j], sweep.axes["column"][k], bool(zeros[j, k]))
            for j, k in (still != zeros).nonzero().tolist()
        ]
        assert not wrong, f"(effect, row, column, said to be zero): {wrong}"
        assert (moves[i][there & ~zeros] > 1e-6).all()
    return sweep.zeros


@pytest.mark.parametrize(
    ("experiment", "site"),
    [
        *((POSITIONS, site) for site in SITES if site not in ("pattern", "thought")),
        (POSITIONS, "ln2.hook_normalized"),
        *((one, site) for one in (LAYERS, ITERATIVE) for site in ("resid_pre", "attn_out")),
    ],
    ids=lambda one: getattr(one, "name", one),
)
def test_what_cannot_move_is_what_does_not(codi, experiment, site):
    options = {"site": site, "answer_start": ("stem", "eot")[len(site) % 2]}
    chosen = [("bot", 0, 1, 2, "eot")]
    if experiment is not POSITIONS:  # its cells do not depend on what else is asked
        chosen += [("bot", "eot"), (2, "eot"), ("bot",)]
    found = [check_zeros(experiment, codi, positions=steps, **options) for steps in chosen]
    assert any(zeros.any() for zeros in found)
    assert not all(zeros.all() for zeros in found)


@pytest.mark.parametrize("answer_start", list(READOUTS))
@pytest.mark.parametrize("effect", ["total", "direct", "indirect"])
@pytest.mark.parametrize("experiment", [POSITIONS, LAYERS], ids=lambda one: one.name)
def test_the_controls_are_held_as_the_main_effect_is(codi, experiment, effect, answer_start):
    options = {"effect": effect, "answer_start": answer_start, "positions": ("bot", 1, 2, "eot")}
    zeros = check_zeros(experiment, codi, **options)
    effects = make_settings(codi, effect=effect, controls=True).effects
    resample, noise = (zeros[effects.index(name)] for name in ("resample", "random_direction"))
    assert torch.equal(resample, noise)
    if effect != "indirect":  # whose controls are patched runs, not runs fed their thoughts
        assert torch.equal(resample, zeros[0])


@pytest.mark.parametrize("answer_start", list(READOUTS))
@pytest.mark.parametrize("site", ["attn_out", "resid_post"])
@pytest.mark.parametrize("experiment", [POSITIONS, LAYERS, ITERATIVE], ids=lambda one: one.name)
def test_a_run_without_latents_has_its_zeros_too(codi, experiment, site, answer_start):
    options = {"num_latents": 0, "site": site, "answer_start": answer_start}
    for positions in (("bot", "eot"), ("bot",), ("eot",)):
        check_zeros(experiment, codi, positions=positions, **options)


@pytest.mark.parametrize("experiment", [POSITIONS, LAYERS], ids=lambda one: one.name)
def test_noising_has_the_same_zeros(codi, experiment):
    positions = ("bot", 0, 1, 2, "eot")
    there, back = (
        check_zeros(experiment, codi, positions=positions, direction=direction)
        for direction in ("denoise", "noise")
    )
    assert torch.equal(there, back)
