"""Figures show the numbers of the record, and mark what must not be misread."""

import re
import sys
from html import unescape

import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch
from plotly.colors import sample_colorscale

from codi_lens import UserError, plots
from codi_lens.analysis.aggregates import aggregate, donor_threshold, interaction
from codi_lens.analysis.asking import Condition
from codi_lens.analysis.grids import as_grid, outlined, panels
from codi_lens.analysis.latent_ablation import Necessity
from codi_lens.plots.panels import Panel, draw
from tests.models.invented import invented_sweep


@pytest.fixture(scope="module")
def sweep():
    return invented_sweep()


@pytest.fixture(scope="module")
def iterative():
    return invented_sweep("iterative_patching")


def cells_of(trace):
    return torch.tensor([[torch.nan if v is None else v for v in row] for row in trace.z]).double()


def frames(figure):
    """(row, column) of the outlined cells."""
    rects = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    return [(round((s.y0 + s.y1) / 2), round((s.x0 + s.x1) / 2)) for s in rects]


def written(figure, row, column):
    """What is written in a cell, without its colour."""
    return re.sub("<.*?>", "", figure.data[0].text[row][column])


def contrast(one, other):
    """WCAG 2's contrast of two colours, as CSS writes them."""
    levels = []
    for colour in (one, other):
        channels = [float(number) / 255 for number in re.findall(r"[\d.]+", colour)[:3]]
        if colour.startswith("#"):
            channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        levels.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(levels) + 0.05) / (min(levels) + 0.05)


@pytest.mark.parametrize("signed", [True, False])
def test_every_number_can_be_read_on_its_cell(signed):
    values = torch.linspace(-1, 1, 997)[:, None]  # the whole of the colour scale
    panel = Panel("", values, range(997), ["x"])
    figure = draw([panel], title="", subtitle="", colour="", signed=signed)
    scale, (trace,) = figure.layout.coloraxis, figure.data
    places = [(z - scale.cmin) / (scale.cmax - scale.cmin) for (z,) in trace.z]
    cells = sample_colorscale([list(stop) for stop in scale.colorscale], places)
    inks = [re.search("#[0-9a-f]{6}", text)[0] for (text,) in trace.text]
    assert min(map(contrast, inks, cells)) >= 4.5
    assert written(figure, 0, 0) == "-1.00"


def test_maps_of_a_metric_are_on_one_colour_scale_and_say_what_they_are(sweep):
    drawn = plots.gallery(sweep)
    assert list(drawn) == ["recovery", "effects", "by-operand", "controls", "kl"]
    maps = [figure for name, figure in drawn.items() if name != "kl"]
    largest = max(float(cells_of(trace).abs().max()) for figure in maps for trace in figure.data)
    for figure in maps:
        axis = figure.layout.coloraxis
        assert (axis.cmin, axis.cmax) == pytest.approx((-largest, largest))
        titles = [note.text.replace("<br>", " ") for note in figure.layout.annotations]
        assert len(titles) == len(set(titles)) == (len(figure.data) if len(figure.data) > 1 else 0)
    named = [note.text.split(":")[0] for note in drawn["effects"].layout.annotations]
    assert named == ["total effect", "direct effect", "indirect effect", "interaction"]
    controls = [
        plots.heatmap(sweep, "recovery", name)
        for name in ("identity", "resample", "random_direction")
    ]
    titles = {figure.layout.title.text for figure in (*controls, drawn["recovery"])}
    assert len(titles) == 4


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


def test_side_by_side_says_its_rule(sweep, iterative):
    figure = plots.heatmaps({"where": sweep, "along": iterative})
    group = aggregate(sweep)
    said = unescape(figure.layout.title.subtitle.text.replace("<br>", " "))
    limit = donor_threshold(sweep, group)
    assert f"above its donor control's largest (where: {limit:.3g}, along: not run)" in said
    assert frames(figure)[: len(outlined(sweep, group, "recovery", "total"))] == outlined(
        sweep, group, "recovery", "total"
    )
    names = [figure.layout[axis].title.text for axis in ("xaxis", "xaxis2")]
    assert names == ["latent position", "iteration"]


@pytest.mark.parametrize(
    "figure",
    [
        plots.imshow(torch.eye(2)),
        plots.heatmap(invented_sweep()),
        plots.layer_profile({"a": invented_sweep()}),
    ],
    ids=["imshow", "map", "profile"],
)
def test_showing_without_nbformat_says_what_to_install(figure, monkeypatch):
    assert type(figure) is go.Figure
    monkeypatch.setattr("plotly.io._renderers.nbformat", None)
    monkeypatch.setattr("plotly.io.renderers.default", "notebook")
    needed = r"(nbformat|ipython).*pip install 'codi-lens\[notebook\]'"
    with pytest.raises(UserError, match=needed):
        figure.show()
    with pytest.raises(UserError, match=needed):
        figure.update_layout(width=400)._ipython_display_()  # how a notebook shows a cell's value
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(UserError, match=r"codi-lens\[notebook\]"):
        plots.show(figure)


def test_drawing_changes_no_global_template(sweep):
    before = pio.templates.default
    plots.heatmap(sweep)
    assert pio.templates.default == before


@pytest.mark.parametrize("effect", [None, "direct", "resample"])
def test_a_heatmap_holds_the_means(sweep, effect):
    figure = plots.heatmap(sweep, "recovery", effect)
    expected = as_grid(aggregate(sweep).means["recovery"], sweep, effect or "total")
    torch.testing.assert_close(cells_of(figure.data[0]), expected.double())
    mean = float(expected[1, 2])
    said = figure.data[0].customdata[1][2]
    assert f"recovery: {mean:.4f} [" in said
    assert "flipped" in said
    assert "n = 4" in said


def test_colours_are_centred_where_values_have_a_sign(sweep):
    signed = plots.heatmap(sweep, "recovery").layout.coloraxis
    assert signed.cmin == -signed.cmax
    assert signed.cmid == 0
    plain = plots.heatmap(sweep, "kl_divergence").layout.coloraxis
    assert plain.cmid is None
    assert plain.colorscale != signed.colorscale


def test_cells_under_the_donors_largest_effect_have_no_frame(sweep):
    group = aggregate(sweep)
    limit = donor_threshold(sweep, group)
    values = as_grid(group.means["recovery"], sweep, "total")
    found = frames(plots.heatmap(sweep, "recovery"))
    assert found == outlined(sweep, group, "recovery", "total")
    assert found
    assert all(values[cell] > limit for cell in found)
    assert not frames(plots.heatmap(sweep, "recovery", "resample"))


def test_levels_have_no_cells_that_stand_out(sweep):
    assert not frames(plots.heatmap(sweep, "logprob_clean"))


def test_structural_zeros_are_hatched(sweep):
    figure = plots.heatmap(sweep, "recovery", "direct")
    (hatching,) = [shape for shape in figure.layout.shapes if shape.type == "path"]
    zeros = sweep.structural_zeros("direct")
    assert hatching.path.count("M") == 3 * int(zeros.sum())
    assert "hatched" in figure.layout.title.subtitle.text.replace("<br>", " ")


def test_structural_zeros_of_strategies():
    sweep = invented_sweep("iterative_patching", layers=3, latents=3)
    last = [[2, 2]]
    assert sweep.structural_zeros("single").nonzero().tolist() == last
    assert sweep.structural_zeros("chained").nonzero().tolist() == last
    assert not sweep.structural_zeros("cumulative").any()
    assert not sweep.structural_zeros("parallel").any()


def test_small_multiples_share_one_colour_scale(sweep):
    for figure in (
        plots.heatmap_by_pair(sweep),
        plots.heatmap_by_operand(sweep),
        plots.heatmaps({"resid_post": sweep, "attn_out": sweep}),
        plots.effects(sweep),
    ):
        assert len(figure.data) > 1
        assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}
        largest = max(float(cells_of(trace).abs().nan_to_num().max()) for trace in figure.data)
        assert figure.layout.coloraxis.cmax == pytest.approx(largest)


def test_the_pairs_of_a_figure_are_the_pairs_asked_for(sweep):
    figure = plots.heatmap_by_pair(sweep, "kl_divergence", [2])
    expected = sweep.values("kl_divergence", effect="total")[2]
    torch.testing.assert_close(cells_of(figure.data[0]), expected.double())


def test_effects_add_up(sweep):
    total, direct, indirect, rest = (cells_of(trace) for trace in plots.effects(sweep).data)
    torch.testing.assert_close(total, direct + indirect + rest)
    left = interaction(sweep, aggregate(sweep), "recovery")
    torch.testing.assert_close(rest, left.double())
    with pytest.raises(ValueError, match="effect='all'"):
        plots.effects(invented_sweep(effect="direct"))


def test_trajectories_have_a_line_per_layer_and_a_level(iterative):
    figure = plots.trajectories(iterative, "recovery")
    means = aggregate(iterative).means["recovery"]
    assert len(figure.data) == 3 * 3
    assert list(figure.data[4].y) == pytest.approx(means[1, 1].tolist())
    levels = sorted({shape.y0 for shape in figure.layout.shapes})
    assert levels == pytest.approx(sorted(means[3, :, -1].tolist()))


def test_chained_minus_parallel(iterative):
    means = aggregate(iterative).means["recovery"]
    figure = plots.chained_minus_parallel(iterative)
    torch.testing.assert_close(cells_of(figure.data[0]), (means[2] - means[3, :, -1:]).double())


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


def test_images_need_kaleido(sweep, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(UserError, match=r"codi-lens\[export\]"):
        plots.write_images(tmp_path / "new", {"a": plots.heatmap(sweep)})
    assert not (tmp_path / "new").exists()


def test_images_need_a_browser(sweep, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no Chrome\nlong story")

    monkeypatch.setattr("plotly.graph_objects.Figure.to_image", broken)
    with pytest.raises(UserError, match=r"could not use one \(no Chrome\)"):
        plots.to_image(plots.heatmap(sweep))
    with pytest.raises(UserError, match="png, svg, pdf"):
        plots.to_image(plots.heatmap(sweep), "bmp")


@pytest.mark.browser
@pytest.mark.parametrize(
    ("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<svg"), ("pdf", b"%PDF")]
)
def test_images_are_what_they_are_called(sweep, tmp_path, kind, start):
    (path,) = plots.write_images(tmp_path, {"map": plots.heatmap(sweep)}, kind)
    assert path.name == f"map.{kind}"
    assert path.read_bytes().startswith(start)
