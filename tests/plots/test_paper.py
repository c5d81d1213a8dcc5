"""Figures for papers: their size, their text, and nothing of it over anything else."""

import json
import re
import shutil
import subprocess
from html import unescape
from itertools import combinations

import plotly.graph_objects as go
import pytest

from codi_lens import UserError, plots
from tests.models.invented import invented_sweep

POINTS = {"column": 3.3 * 72, "page": 6.9 * 72}
TEXT = 8 * 96 / 72


@pytest.fixture(scope="module")
def figures(sweep, iterative):
    wide, deep = invented_sweep(latents=6), invented_sweep(layers=16, latents=6)
    return {
        "3×6": plots.heatmap(wide),
        "16×6": plots.heatmap(deep),
        "heads": plots.heatmap(
            invented_sweep(rows=tuple(f"{i}.{j}" for i in range(6) for j in range(8)))
        ),
        "four maps": plots.effects(wide),
        "two maps": plots.heatmap_by_operand(deep),
        "lines": plots.trajectories(iterative),
        "legend": plots.layer_profile(
            {"position_patching": sweep, "iterative_patching": iterative}
        ),
        "points": plots.scatter({"a": sweep, "b": iterative}),
    }


def sizes(part):
    """Every size of text in a figure's layout and traces."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if str(key).endswith("font") and "size" in value:
            yield value["size"]
        if isinstance(value, (dict, list, tuple)):
            yield from sizes(value)


@pytest.mark.parametrize("width", POINTS)
def test_all_text_is_of_8_points_and_the_figure_as_wide_as_asked(figures, width):
    for name, figure in figures.items():
        before = json.loads(figure.to_json())
        drawn = figure.for_paper(width=width)
        assert type(drawn) is go.Figure
        assert drawn.layout.width * 72 / 96 == pytest.approx(POINTS[width])
        assert set(sizes(drawn.to_plotly_json()["layout"])) == {TEXT}, name
        assert drawn.layout.title.text is None
        assert drawn.layout.meta["title"] == figure.layout.meta["title"]
        assert drawn.layout.coloraxis.colorscale == figure.layout.coloraxis.colorscale
        assert [t.line.color for t in drawn.select_traces("scatter")] == [
            t.line.color for t in figure.select_traces("scatter")
        ]
        assert json.loads(figure.to_json()) == before


def test_numbers_stand_in_cells_that_hold_them(figures):
    shown = {
        n: f.for_paper().data[0].texttemplate for n, f in figures.items() if "×" in n or "maps" in n
    }
    assert shown == {"3×6": "%{text}", "16×6": "%{text}", "four maps": "", "two maps": ""}
    assert figures["four maps"].for_paper(width="page").data[0].texttemplate == "%{text}"


def test_another_width_is_refused(figures):
    with pytest.raises(UserError, match="no width 'poster'; known are column, page"):
        figures["3×6"].for_paper(width="poster")


MEASURED = """<script>
const found = [...document.querySelectorAll("body > svg")].map(svg => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter(e => e.textContent.trim()).map(e => {
    const box = e.getBoundingClientRect(), size = parseFloat(getComputedStyle(e).fontSize);
    const [left, top] = [box.left - frame.left, box.top - frame.top];
    return [e.textContent, size, left, top, left + box.width, top + box.height];
  });
});
document.body.innerHTML = `<pre>${JSON.stringify(found)}</pre>`;
</script>"""


def measured(files, folder):
    """[text, size, left, top, right, bottom] of everything written in each SVG, as a browser draws it."""
    page = folder / "page.html"
    page.write_text(f"<meta charset=utf-8><body>{''.join(files)}{MEASURED}", encoding="utf-8")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
    asked = [program, *flags, "--dump-dom", page.as_uri()]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    return json.loads(unescape(re.search("<pre>(.*)</pre>", said, re.S)[1]))


@pytest.mark.browser
def test_in_the_file_no_text_is_over_another_or_outside(figures, tmp_path):
    asked = [(name, width) for name in figures for width in POINTS]
    drawn = {f"{name} {width}": figures[name].for_paper(width=width) for name, width in asked}
    paths = plots.write_images(tmp_path, drawn, "svg")
    files = [path.read_text(encoding="utf-8") for path in paths]
    for (name, width), content, texts in zip(asked, files, measured(files, tmp_path), strict=True):
        pixels = float(re.search(r'width="([\d.]+)"', content)[1])
        assert pixels * 72 / 96 == pytest.approx(POINTS[width], abs=0.4)
        assert len(texts) > 8
        for text, size, left, top, right, bottom in texts:
            assert size == pytest.approx(TEXT, abs=0.01), (name, width, text)
            high = float(re.search(r'height="([\d.]+)"', content)[1])
            assert -0.5 <= left <= right <= pixels + 0.5, (name, width, text)
            assert -0.5 <= top <= bottom <= high + 0.5, (name, width, text)
        for one, other in combinations(texts, 2):
            apart = [
                max(a - b for a, b in zip(p[2:4], q[4:6], strict=True))
                for p, q in ((one, other), (other, one))
            ]
            assert max(apart) > -1, (name, width, one, other)
