"""The report as its reader has it: in a browser, without a network."""

import re

import pytest
from plotly.colors import sample_colorscale

from codi_lens import plots
from codi_lens.report.build import report
from tests.models.invented import SCRIPT, invented_sweep
from tests.plots.seeing import contrast
from tests.report.reader import (
    CELL,
    CELLS,
    HOVER,
    check,
    choose,
    click_at,
    click_cell,
    emulated,
    nothing_asked_and_nothing_wrong,
    numbers,
    point_at,
    rows_of,
    style,
    tab,
    until,
)
from tests.report.test_build import MANIFEST

pytestmark = pytest.mark.browser


def heading(browser, run):
    """Of the card: which cell is chosen."""
    return browser.find_element("css selector", f"#run-{run}-cell h3").text


def test_the_strongest_cell_is_chosen_at_first_and_the_first_sentence_tells_of_it(opened):
    browser, data = opened
    for number, run in enumerate(data["runs"]):
        i, j = run["best"]
        main = run["groups"]["all"]["mean"]["recovery"][0]
        zeros = run["panels"][0]["zeros"]
        free = [
            v
            for row, z in zip(main, zeros, strict=True)
            for v, zero in zip(row, z, strict=True)
            if not zero
        ]
        assert main[i][j] == max(free)
        assert heading(browser, number).startswith(f"Layer {run['rows'][i]}")
        check(numbers(browser, f"run-{number}"), run["groups"]["all"]["mean"], (i, j))
    i, j = data["runs"][0]["best"]
    first = browser.find_element("css selector", "#found .found p").text
    assert first.startswith(f"Layer {i}, latent position {j} stands out most (total effect)")
    assert (
        f"moves {data['runs'][0]['groups']['all']['mean']['recovery'][0][i][j]:.0%} of the way"
        in first
    )


def test_a_reader_switches_metric_picks_a_pair_and_clicks_a_cell(opened):
    browser, data = opened
    run = data["runs"][0]
    choose(browser, "run-0-metric-menu", "kl_divergence")
    drawn = browser.execute_script("return document.getElementById('run-0-map').data[0].z")
    assert drawn == run["groups"]["all"]["mean"]["kl_divergence"][0]

    click_cell(browser, "run-0-map", *CELL)
    until(lambda: browser.find_elements("id", "run-0-numbers"))
    found = numbers(browser, "run-0")
    assert set(found) == {metric["name"] for metric in run["metrics"]}
    check(found, run["groups"]["all"]["mean"], CELL)
    low, high = map(float, re.findall(r"-?[\d.e-]+", found["recovery"][1]))
    group = run["groups"]["all"]
    assert low == pytest.approx(group["low"]["recovery"][0][CELL[0]][CELL[1]], rel=1e-4)
    assert high == pytest.approx(group["high"]["recovery"][0][CELL[0]][CELL[1]], rel=1e-4)

    tab(browser, 0, "by operand")
    choose(browser, "run-0-group-menu", "operand b")
    check(numbers(browser, "run-0"), run["groups"]["operand b"]["mean"], CELL)
    tab(browser, 0, "by pair")
    choose(browser, "run-0-pair-menu", "2")
    check(numbers(browser, "run-0"), run["pairs"][2]["values"], CELL)
    choose(browser, "run-0-panel-menu", "1")
    check(numbers(browser, "run-0"), run["pairs"][2]["values"], CELL, panel=1)


def test_a_question_with_markup_stays_text(opened):
    browser, _ = opened
    tab(browser, 0, "by pair")
    choose(browser, "run-0-panel-menu", "0")
    choose(browser, "run-0-pair-menu", "0")
    click_cell(browser, "run-0-map", 0, 0)
    until(lambda: "not decoded" not in browser.find_element("id", "run-0-pair-table").text)
    table = browser.find_element("id", "run-0-pair-table").text
    assert SCRIPT in table
    assert "The answer is: 0 <b>" in table  # what the patched run says at the chosen cell
    assert browser.title == "Which (layer, latent position) carries the computation? m"
    assert not browser.find_elements("css selector", "td script, td b")


def test_cells_of_the_other_experiments_can_be_clicked(opened):
    browser, data = opened
    values = [run["groups"]["all"]["mean"] for run in data["runs"]]
    click_at(browser, "run-1-map", 1, values[1]["recovery"][0][1][0])  # a profile: layers rightward
    click_cell(browser, "run-2-map", 1, 2)
    for run, cell in ((1, (1, 0)), (2, (1, 2))):
        until(lambda run=run, cell=cell: f"ayer {cell[0]}" in heading(browser, run))
        check(numbers(browser, f"run-{run}"), values[run], cell)


def test_the_tabs_show_each_map_on_one_scale_and_the_arrow_keys_turn_them(opened):
    from selenium.webdriver import Keys

    browser, data = opened
    drawn = "const {z, zmin, zmax} = document.getElementById('run-0-map').data[0]; return [z, [zmin, zmax]]"
    choose(browser, "run-0-metric-menu", "recovery")
    tab(browser, 0, "total")
    for panel, name in ((0, "total"), (1, "direct"), (2, "indirect"), (6, "interaction")):
        active = browser.switch_to.active_element
        assert active.text == name
        cells, scale = browser.execute_script(drawn)
        assert cells == data["runs"][0]["groups"]["all"]["mean"]["recovery"][panel]
        assert scale == data["scales"]["recovery"]
        active.send_keys(Keys.ARROW_RIGHT)
    assert browser.switch_to.active_element.text == "controls"
    menu = browser.find_elements("css selector", "#run-0-panel-menu option")
    assert len(menu) == 3
    # The map as a table has what the map has.
    tab(browser, 0, "total")
    browser.find_element("css selector", "#run-0 .view > div:first-child summary").click()
    rows = until(lambda: rows_of(browser, "#run-0 .view > div:first-child tr"))[:0:-1]
    for row, values in zip(
        rows, data["runs"][0]["groups"]["all"]["mean"]["recovery"][0], strict=True
    ):
        assert [float(cell) for cell in row] == pytest.approx(values, rel=1e-4)


def test_pointing_at_a_cell_tells_place_value_interval_and_n(opened):
    browser, data = opened
    choose(browser, "run-0-metric-menu", "recovery")
    tab(browser, 0, "total")
    for run, cell in ((0, CELL), (1, (1, 0)), (2, (1, 2))):
        group, (i, j) = data["runs"][run]["groups"]["all"], cell
        x, y = (j, i) if run != 1 else (i, group["mean"]["recovery"][0][i][0])
        point_at(browser, f"run-{run}-map", x, y, aside=3 * (run != 1))
        hover = until(lambda run=run: browser.find_elements("css selector", HOVER.format(run)))
        said = hover[0].get_attribute("textContent")
        numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-\d+)?", said)]
        place = [i, j] if run != 1 else [i]
        values = [group[side]["recovery"][0][i][j] for side in ("mean", "low", "high")]
        assert numbers == pytest.approx([*place, *values, group["n_recovery"]], rel=1e-3), said


def test_a_cell_is_chosen_from_the_keyboard(opened):
    from selenium.webdriver import Keys

    browser, data = opened
    figure = browser.find_element("id", "run-2-map")
    assert "Arrow keys" in figure.get_attribute("aria-label")
    browser.execute_script("document.getElementById('run-2-metric-menu').focus()")
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element == figure
    assert figure.value_of_css_property("outline-style") == "solid"
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", figure)
    click_cell(browser, "run-2-map", 0, 0)
    keys = [Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_LEFT]
    figure.send_keys(*keys, Keys.ARROW_RIGHT, Keys.ENTER)
    assert heading(browser, 2) == "Layer 2, iteration 1"
    check(numbers(browser, "run-2"), data["runs"][2]["groups"]["all"]["mean"], (2, 1))
    said = browser.find_element("css selector", "#run-2 [role=status]").text
    assert said.startswith("layer 2, iteration 1; recovery: ")


def test_a_narrow_screen_scrolls_no_page_sideways(opened):
    browser, _ = opened
    with emulated(browser, width=390):
        wide = "return [document.documentElement.scrollWidth, innerWidth]"
        assert browser.execute_script(wide) == [390, 390]
        # Everything that is wider scrolls inside a box of its own.
        assert browser.execute_script(
            "return [...document.querySelectorAll('.map, .card, .tabs, .menus label')]"
            ".every((box) => box.clientWidth <= 358)"
        )
        # What a figure is, is read without scrolling.
        said = browser.find_elements("css selector", "#comparison h3, #comparison .note")
        assert all(text.rect["x"] + text.rect["width"] <= 374 for text in said)
        assert not browser.find_elements("css selector", ".gtitle")
        # The contents stay where they are seen.
        browser.execute_script("window.scrollTo(0, 2000)")
        until(lambda: browser.execute_script("return scrollY") == 2000)
        top = "return document.querySelector('nav').getBoundingClientRect().top"
        assert browser.execute_script(top) == 0


def test_numbers_in_cells_can_be_read_in_light_and_in_dark(opened):
    browser, _ = opened
    for scheme, ground in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 22, 26)")):
        with emulated(browser, scheme=scheme):
            for part in ("body", "#run-0-map .main-svg", "#comparison .main-svg"):
                until(lambda p=part, g=ground: style(browser, p, "background-color") == g)
            for metric in ("recovery", "kl_divergence"):
                choose(browser, "run-0-metric-menu", metric)
                texts, trace = browser.execute_script(CELLS)
                assert len(texts) == 9
                reach = trace["zmax"] - trace["zmin"]
                places = [(z - trace["zmin"]) / reach for row in trace["z"] for z in row]
                cells = sample_colorscale(trace["colorscale"], places)
                assert min(map(contrast, texts, cells)) >= 4.5
            for text in ("#run-0-map .xtick text", ".sub", ".card dt", ".tabs button", "nav a"):
                ink = style(browser, text, "fill" if "text" in text else "color")
                assert contrast(ink, ground) >= 4.5, text


def test_every_figure_is_drawn(opened):
    browser, data = opened
    tab(browser, 2, "in lines")
    titles = [figure["layout"]["meta"]["title"] for figure in data["runs"][2]["figures"]]
    assert len(titles) == 6
    for i, title in enumerate(titles):
        choose(browser, "run-2-figure-menu", str(i))
        assert browser.find_element("css selector", "#run-2-figure h3").text == title
        assert browser.find_elements("css selector", "#run-2-figure .main-svg")
    tab(browser, 2, "single")
    drawn = browser.find_elements("css selector", "#comparison .js-plotly-plot .main-svg")
    assert len(drawn) >= len(data["comparison"]["figures"]) > 0


def test_nothing_is_asked_of_a_network_and_nothing_goes_wrong(opened):
    nothing_asked_and_nothing_wrong(opened[0])


def test_a_page_of_figures_asks_nothing_and_has_no_button_that_sends(browser, tmp_path):
    path = tmp_path / "heatmap.html"
    path.write_text(plots.page(plots.gallery(invented_sweep())), encoding="utf-8")
    browser.get(path.as_uri())
    until(lambda: len(browser.find_elements("css selector", ".heatmaplayer")) >= 10)
    buttons = browser.find_elements("css selector", ".modebar-btn")
    assert {button.get_attribute("data-title") for button in buttons} == {
        "Download plot as a PNG",
        "Reset axes",
    }
    assert not browser.find_elements("css selector", ".modebar-btn--logo, .plotlyjsicon")
    with emulated(browser, width=390):
        wide = "return [document.documentElement.scrollWidth, innerWidth]"
        assert browser.execute_script(wide) == [390, 390]
        said = browser.find_elements("css selector", "h1, p")
        assert len(said) == 2 * len(browser.find_elements("css selector", ".js-plotly-plot"))
        assert all(text.rect["x"] + text.rect["width"] <= 390 for text in said)
        assert not browser.find_elements("css selector", ".gtitle, .gtitle-subtitle")
    nothing_asked_and_nothing_wrong(browser)


def test_where_nothing_has_a_value_the_page_says_so(browser, tmp_path):
    sweep = invented_sweep(rows=(1,), positions=(2,), pairs=1)
    for values in sweep.outcomes[0].metrics.values():
        values.fill_(float("nan"))
    path = tmp_path / "report.html"
    path.write_text(report({"one": sweep}, {"one": MANIFEST}), encoding="utf-8")
    browser.get(path.as_uri())
    until(lambda: "No cell has a value" in browser.find_element("id", "run-0-note").text)
    nothing_asked_and_nothing_wrong(browser)
