"""Maps show the means of the record on one scale, and mark what must not be misread."""

import re
from html import unescape

import pytest
import torch
from plotly.colors import sample_colorscale

from codi_lens import plots
from codi_lens.analysis.aggregates import aggregate, donor_threshold, interaction
from codi_lens.analysis.grids import as_grid, outlined
from codi_lens.plots.panels import Panel, draw
from tests.models.invented import invented_sweep
from tests.plots.seeing import cells_of, contrast, frames, written


@pytest.mark.parametrize("signed", [True, False])
def test_every_number_can_be_read_on_its_cell(signed):
    values = torch.linspace(-1, 1, 960).reshape(80, 12)  # the whole of the colour scale
    panel = Panel("", values, range(80), range(12))
    figure = draw([panel], title="", subtitle="", colour="", signed=signed)
    scale, (trace,) = figure.layout.coloraxis, figure.data
    places = [(z - scale.cmin) / (scale.cmax - scale.cmin) for row in trace.z for z in row]
    cells = sample_colorscale([list(stop) for stop in scale.colorscale], places)
    inks = [re.search("#[0-9a-f]{6}", text)[0] for row in trace.text for text in row]
    assert min(map(contrast, inks, cells)) >= 4.5
    assert written(figure, 0, 0) == "-1.00"


def test_maps_of_many_rows_keep_to_a_height_and_name_some_of_them():
    panel = Panel("", torch.zeros(512, 6), [f"{i // 32}.{i % 32}" for i in range(512)], range(6))
    figure = draw([panel], title="", subtitle="", colour="", signed=True)
    assert figure.layout.height < 3000
    assert 40 <= len(figure.layout.yaxis.ticktext) <= 90
    assert not any(text for row in figure.data[0].text for text in row)


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


def test_chained_minus_parallel(iterative):
    means = aggregate(iterative).means["recovery"]
    figure = plots.chained_minus_parallel(iterative)
    torch.testing.assert_close(cells_of(figure.data[0]), (means[2] - means[3, :, -1:]).double())
