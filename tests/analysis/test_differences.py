"""Differences between runs: against a plain bootstrap in NumPy, and by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from codi_lens import UserError, plots
from codi_lens.analysis.comparison import compare
from codi_lens.analysis.differences import Moved, difference, moved, shared
from codi_lens.cli import compare as program
from codi_lens.cli import position_patching
from tests.models.invented import invented_sweep
from tests.models.runs import write_job


def chosen(sweep, indices):
    return replace(sweep, outcomes=tuple(sweep.outcomes[i] for i in indices))


def plain_bootstrap(one, other, metric, seed):
    """Means in the second − in the first (of recovery, ratios of sums), over draws of the same pairs; three rows."""
    n = len(one.outcomes)
    draws = torch.randint(n, (1000, n), generator=torch.Generator().manual_seed(seed)).numpy()

    def mean(sweep, pairs):
        if metric != "recovery":
            return np.mean(
                [sweep.outcomes[i].metrics[metric][:, :3].numpy() for i in pairs], 0, float
            )
        gained, gaps = 0, 0
        for i in pairs:
            base, source = (
                run.metrics["logit_diff"]
                for run in (sweep.outcomes[i].base, sweep.outcomes[i].source)
            )
            patched = sweep.outcomes[i].metrics["logit_diff"][:, :3].numpy().astype(float)
            gained = gained + patched - base
            gaps += source - base
        return gained / gaps

    found = [mean(other, d) - mean(one, d) for d in draws]
    whole = mean(other, range(n)) - mean(one, range(n))
    return whole, *np.quantile(found, [0.025, 0.975], axis=0)


@pytest.mark.parametrize("metric", ["recovery", "kl_divergence"])
def test_intervals_are_those_of_a_plain_paired_bootstrap(metric):
    whole = invented_sweep(pairs=9, layers=4, latents=4, controls=False)
    other = invented_sweep(pairs=9, layers=3, latents=4, controls=False, seed=1)
    # The second has its pairs in another order, and each has pairs, rows and columns of its own.
    one, two = chosen(whole, range(7)), chosen(other, [8, 6, 2, 5, 3, 4])
    between = shared(one, two, ("A", "B"))
    assert between.apart == (
        "rows in A alone: 3",
        "pairs in A alone: 2",
        "pairs in B alone: 1",
    )
    found = difference(between, metric)
    pairs = [2, 3, 4, 5, 6]
    expected = plain_bootstrap(chosen(whole, pairs), chosen(other, pairs), metric, seed=0)
    for part, wanted in zip((found.mean, found.low, found.high), expected, strict=True):
        np.testing.assert_allclose(part.numpy(), wanted, rtol=1e-9, atol=1e-12)
    assert found.n == (5, 5)
    assert [rank.n for rank in found.ranks] == [
        int((~(whole.zeros[i, :3] | other.zeros[i])).sum()) for i in range(3)
    ]


def test_pairs_that_are_gained_and_lost_by_hand():
    one, two = (
        invented_sweep(effect="total", controls=False),
        invented_sweep(effect="total", controls=False),
    )
    for sweep in (one, two):
        for outcome in sweep.outcomes:
            outcome.metrics["flipped"].zero_()
    one.outcomes[1].metrics["flipped"][0, 2, 1] = 1
    one.outcomes[2].metrics["flipped"][0, 0, 0] = 1
    two.outcomes[2].metrics["flipped"][0, 1, 2] = 1  # by another cell: recovered in both
    two.outcomes[3].metrics["flipped"][0, 1, 1] = 1
    wrong = [replace(o, base=replace(o.base, correct=i != 0)) for i, o in enumerate(two.outcomes)]
    found = moved(shared(one, replace(two, outcomes=tuple(wrong[::-1]))))
    assert found == {"answered right": Moved((), (0,)), "recovered": Moved((3,), (1,))}


def test_effects_of_the_same_name_are_compared_and_else_the_main_ones():
    of = {effect: invented_sweep(effect=effect) for effect in ("total", "direct", "all")}
    assert shared(of["total"], of["direct"]).effect_names == ("direct − total",)
    assert shared(of["all"], of["direct"]).effect_names == ("direct",)
    assert shared(of["all"], of["all"]).effect_names == ("total", "direct", "indirect")
    found = difference(shared(of["total"], of["direct"]), "kl_divergence")
    means = (of[e].mean("kl_divergence", effect=e).double() for e in ("direct", "total"))
    torch.testing.assert_close(found.mean[0], next(means) - next(means), atol=1e-6, rtol=0)
    iterative = shared(of["total"], invented_sweep("iterative_patching"))
    assert iterative.effect_names == ("single − total",)


def test_runs_without_a_pair_in_common_are_drawn_from_independently():
    one = invented_sweep(controls=False, pairs=6)
    own = [
        replace(o, pair=replace(o.pair, clean=replace(o.pair.clean, question=f"other {i}")))
        for i, o in enumerate(one.outcomes)
    ]
    between = shared(one, replace(one, outcomes=tuple(own)))
    assert not between.paired
    assert moved(between) == {}
    assert "no pair in common" in between.apart[-1]
    found = difference(between)
    assert float(found.mean.abs().max()) == 0
    assert bool((found.low < found.high)[~found.zeros].any())  # paired, they would all be 0


def test_what_has_no_cell_in_common_is_named():
    position, layer = invented_sweep(), invented_sweep("layer_patching")
    heads = invented_sweep(rows=("0.0", "0.1"))
    with pytest.raises(UserError, match=r"place at a position in a and one of layer_patching in b"):
        shared(position, layer, ("a", "b"))
    with pytest.raises(UserError, match=r"no row in common \(first: 0, 1, 2; second: 0\.0, 0\.1\)"):
        shared(position, heads)


def test_laws_bind_runs_of_one_model_alone():
    one, two = invented_sweep(), invented_sweep("layer_patching")
    laws = [check.name for check in compare({"a": one, "b": two}, {"a": "float32"}).checks]
    assert laws == ["baselines agree across runs"]
    assert (
        compare({"a": one, "b": replace(two, model_digest="f" * 64)}, {"a": "float32"}).checks == ()
    )


def test_the_program_compares_a_site_with_another(tmp_path, capsys):
    flags = [*write_job(tmp_path), "--answers", "none", "--controls", "none"]
    for site in ("resid_post", "mlp_out"):
        made = [*flags, "--site", site, "--out", str(tmp_path / site)]
        assert (
            position_patching.main([*made, "--layers", "0,2" if site == "mlp_out" else "0,1,2"])
            == 0
        )
    runs = [str(tmp_path / site) for site in ("resid_post", "mlp_out")]
    capsys.readouterr()
    assert program.main([*runs, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "settings.site (first resid_post, second mlp_out)" in printed
    assert "left out: rows in resid_post alone: 1" in printed
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    recovery = found["differences"]["mlp_out"]["maps"]["recovery"]
    assert set(recovery["mean"]["total"]) == {"0", "2"}
    assert recovery["rank_correlation"]["total"]["rho"] is None  # four cells
    assert (
        "mlp_out − resid_post: total: recovery"
        in (tmp_path / "out" / "comparison.html").read_text()
    )


def test_a_map_of_differences_outlines_what_is_certain():
    found = difference(shared(invented_sweep(pairs=8), invented_sweep(pairs=8, seed=1)))
    figure = plots.differences({"b − a": found})
    scale = figure.layout.coloraxis
    assert scale.cmin == -scale.cmax
    certain = ((found.low > 0) | (found.high < 0)).sum()
    assert sum(shape.type == "rect" for shape in figure.layout.shapes) == int(certain)
