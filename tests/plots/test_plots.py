"""Profiles, bars and tensors show the numbers of the record; what cannot be drawn is said."""

import pytest
import torch

from codi_lens import UserError, plots
from codi_lens.analysis.aggregates import aggregate
from codi_lens.analysis.asking import Condition
from codi_lens.analysis.grids import panels
from codi_lens.analysis.latent_ablation import Necessity
from tests.models.invented import invented_sweep


@pytest.mark.parametrize(
    "experiment", ["position_patching", "layer_patching", "iterative_patching"]
)
@pytest.mark.parametrize(
    "shape", [{"rows": (1,)}, {"positions": (2,)}, {"pairs": 1}, {"undefined": True}]
)
def test_little_or_nothing_to_draw_is_drawn_all_the_same(experiment, shape):
    shape = dict(shape)
    undefined = shape.pop("undefined", False)
    sweep = invented_sweep(experiment, **shape)
    if undefined:
        for outcome in sweep.outcomes:
            outcome.metrics["recovery"].fill_(torch.nan)
    drawn = plots.gallery(sweep)
    page = plots.page(drawn)
    assert all(f'id="{name}"' in page for name in drawn)
    if undefined:
        for figure in drawn.values():
            if "recovery" in figure.layout.title.text:
                said = figure.layout.title.subtitle.text.replace("<br>", " ")
                assert "n = 0 pairs (4 left out: no recovery defined)" in said


def test_what_a_map_lacks_is_said(sweep, iterative):
    known = "known are kl_divergence, .*recovery"
    for call, message in (
        (lambda: plots.heatmap(sweep, "recovry"), f"no metric 'recovry' in this sweep; {known}"),
        (lambda: plots.heatmap_by_operand(sweep, "x"), known),
        (lambda: plots.heatmap_by_pair(sweep, "x"), known),
        (lambda: plots.heatmaps({"a": sweep}, "x"), known),
        (lambda: plots.layer_profile({"a": sweep}, "x"), known),
        (lambda: plots.scatter({"a": sweep, "b": iterative}, "x"), known),
        (lambda: plots.trajectories(iterative, "x"), known),
        (lambda: plots.chained_minus_parallel(iterative, "x"), known),
        (lambda: plots.controls(sweep, "x"), known),
        (lambda: plots.effects(sweep, "x"), "known are recovery, answer_logit_diff_change"),
        (
            lambda: plots.heatmap(sweep, effect="frozen"),
            "no effect 'frozen'.*known are total",
        ),
        (
            lambda: plots.heatmap(iterative, effect="direct"),
            "no effect 'direct'.* are single, cum",
        ),
        (lambda: plots.trajectories(sweep), "no effect 'parallel'"),
        (lambda: plots.chained_minus_parallel(sweep), "no effect 'chained'"),
        (lambda: plots.heatmap_by_pair(sweep, pairs=[4]), "no pair 4 in this sweep"),
        (lambda: plots.heatmap_by_pair(sweep, pairs=[]), "no pairs"),
        (lambda: plots.controls(invented_sweep(controls=False)), "without controls"),
        (lambda: plots.heatmaps({}), "no sweeps"),
        (lambda: plots.layer_profile({}), "no sweeps"),
        (lambda: plots.scatter({"a": sweep}), "1 sweeps"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_trajectories_have_a_line_per_layer_and_a_level(iterative):
    figure = plots.trajectories(iterative, "recovery")
    means = aggregate(iterative).means["recovery"]
    assert len(figure.data) == 3 * 3
    assert list(figure.data[4].y) == pytest.approx(means[1, 1].tolist())
    levels = sorted({shape.y0 for shape in figure.layout.shapes})
    assert levels == pytest.approx(sorted(means[3, :, -1].tolist()))


def test_a_profile_has_a_line_per_sweep_or_strategy(sweep, iterative):
    layer = invented_sweep("layer_patching")
    runs = {s.experiment.name: s for s in (sweep, layer, iterative)}
    figure = plots.layer_profile(runs)
    assert [trace.name for trace in figure.data] == [
        "position-wise, largest cell",
        "layer-wise, all positions",
        *(f"iterative, {name}, last iteration" for name in panels(iterative)),
    ]
    group = aggregate(layer)
    assert list(figure.data[1].y) == pytest.approx(group.means["recovery"][0, :, 0].tolist())
    above = (group.high["recovery"] - group.means["recovery"])[0, :, 0]
    assert list(figure.data[1].error_y.array) == pytest.approx(above.tolist())


def test_a_scatter_sets_cells_against_cells_and_leaves_out_zeros(sweep, iterative):
    figure = plots.scatter({"a": sweep, "b": iterative})
    points = [(x, y) for trace in figure.data for x, y in zip(trace.x, trace.y, strict=True)]
    assert len(points) == 3 * 3 - 1
    x = aggregate(sweep).means["recovery"][0, 1, 2]
    y = aggregate(iterative).means["recovery"][0, 1, 2]
    assert points[5] == pytest.approx((float(x), float(y)))
    with pytest.raises(ValueError, match="no cell in common"):
        plots.scatter({"a": sweep, "b": invented_sweep(positions=("bot",))})


def test_necessity_bars():
    conditions = {
        name: Condition(name, ("1",) * 4, right)
        for name, right in (("2 latents", (True,) * 4), ("noise latents", (True, False) * 2))
    }
    figure = plots.necessity_bars(Necessity(("q",) * 4, (1,) * 4, 2, conditions, (1, 2, 3, 0)))
    assert list(figure.data[0].y) == [1.0, 0.5]
    assert len(set(figure.data[0].marker.color)) == 2


def test_imshow_is_called_as_in_plotly_express():
    tensor = torch.arange(24.0).reshape(4, 2, 3)
    figure = plots.imshow(
        tensor,
        facet_col=0,
        facet_col_wrap=2,
        facet_labels=["a", "b", "c", "<d>"],
        labels={"x": "key", "y": "query"},
    )
    assert figure.layout.coloraxis.cmid == 0
    below = {a.text: a.y for a in figure.layout.annotations}
    assert set(below) == {"a", "b", "c", "&lt;d&gt;"}
    assert below["a"] == below["b"] > below["c"]  # in the order of the tensor, wrapped rows too
    assert "query" in str(figure.layout)
