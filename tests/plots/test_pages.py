"""Figures out of the program: in notebooks, and as image files."""

import sys

import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch

from codi_lens import UserError, plots
from tests.models.invented import invented_sweep


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
