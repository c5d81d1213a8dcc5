"""The report as its reader has it: in a browser, without a network."""

import json
import re
import shutil
from contextlib import contextmanager

import pytest
from plotly.colors import sample_colorscale

from codi_lens import plots
from codi_lens.report.build import report
from tests.models.invented import SCRIPT, invented_sweep
from tests.plots.test_plots import contrast
from tests.report.test_build import MANIFEST, data_of

pytestmark = pytest.mark.browser

CELL = (2, 1)
HOVER = "#run-{}-map .hoverlayer .hovertext"
CELLS = """const map = document.getElementById("run-0-map"), {z, zmin, zmax, colorscale} = map.data[0];
const texts = [...map.querySelectorAll(".heatmap-label tspan")].map((t) => getComputedStyle(t).fill);
return [texts, {z, zmin, zmax, colorscale}]"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium that logs its console and every request."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        "--window-size=1400,1000",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    """(browser with the page open, the page's data)."""
    runs = {
        "where": invented_sweep(),
        "layers": invented_sweep("layer_patching"),
        "along": invented_sweep("iterative_patching"),
    }
    text = report(runs, dict.fromkeys(runs, MANIFEST))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text, encoding="utf-8")
    browser.get(path.as_uri())
    _until(lambda: browser.find_element("tag name", "body").get_attribute("data-ready"))
    return browser, data_of(text)


@contextmanager
def emulated(browser, *, width=None, scheme=None):
    """The page on another screen, or in another colour scheme, for a while."""
    if width:
        screen = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    if scheme:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    yield
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def _until(condition, seconds=60):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(None, seconds, ignored_exceptions=[IndexError]).until(
        lambda _: condition()
    )


def choose(browser, name, value):
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("id", name)).select_by_value(value)


def point_at(browser, name, x, y, aside=0):
    """Moves the mouse to where the figure has drawn the point (x, y), as a reader would."""
    from selenium.webdriver import ActionChains

    element = browser.find_element("id", name)
    right, down = browser.execute_script(
        "const [figure, x, y] = arguments, axes = figure._fullLayout;"
        "figure.scrollIntoView({block: 'center'});"
        "const box = figure.getBoundingClientRect();"
        "return [axes.xaxis._offset + axes.xaxis.l2p(x) - box.width / 2,"
        " axes.yaxis._offset + axes.yaxis.l2p(y) - box.height / 2]",
        element,
        x,
        y,
    )
    mouse = ActionChains(browser)
    mouse.move_to_element_with_offset(element, round(right) + aside, round(down) + aside)
    mouse.pause(0.3).perform()
    return mouse


def click_at(browser, name, x, y, aside=0):
    point_at(browser, name, x, y, aside).click().perform()


def click_cell(browser, name, row, column):
    """Clicks a cell of a map, beside its number."""
    click_at(browser, name, column, row, aside=3)


def numbers(browser, name):
    """metric -> (value, interval) of the table of the chosen cell."""
    rows = browser.find_elements("css selector", f"#{name}-numbers tr")
    found = {}
    for row in rows:
        texts = [cell.text for cell in row.find_elements("tag name", "td")]
        found[row.get_attribute("data-metric")] = texts[1:]
    return found


def check(found, values, cell, panel=0):
    for metric, texts in found.items():
        wanted = values[metric][panel][cell[0]][cell[1]]
        if wanted is None:
            assert texts[0] == "–", metric
        else:
            assert float(texts[0]) == pytest.approx(wanted, rel=1e-4), metric


def test_a_reader_switches_metric_picks_a_pair_and_clicks_a_cell(opened):
    browser, data = opened
    run = data["runs"][0]
    choose(browser, "run-0-metric-menu", "kl_divergence")
    drawn = browser.execute_script("return document.getElementById('run-0-map').data[0].z")
    assert drawn == run["groups"]["all"]["mean"]["kl_divergence"][0]

    click_cell(browser, "run-0-map", *CELL)
    _until(lambda: browser.find_elements("id", "run-0-numbers"))
    found = numbers(browser, "run-0")
    assert set(found) == {metric["name"] for metric in run["metrics"]}
    check(found, run["groups"]["all"]["mean"], CELL)
    low, high = map(float, re.findall(r"-?[\d.e-]+", found["recovery"][1]))
    group = run["groups"]["all"]
    assert low == pytest.approx(group["low"]["recovery"][0][CELL[0]][CELL[1]], rel=1e-4)
    assert high == pytest.approx(group["high"]["recovery"][0][CELL[0]][CELL[1]], rel=1e-4)

    choose(browser, "run-0-pair-menu", "2")
    check(numbers(browser, "run-0"), run["pairs"][2]["values"], CELL)
    choose(browser, "run-0-panel-menu", "1")
    check(numbers(browser, "run-0"), run["pairs"][2]["values"], CELL, panel=1)


def test_a_question_with_markup_stays_text(opened):
    browser, _ = opened
    choose(browser, "run-0-panel-menu", "0")
    choose(browser, "run-0-pair-menu", "0")
    click_cell(browser, "run-0-map", 0, 0)
    _until(lambda: "not decoded" not in browser.find_element("id", "run-0-pair").text)
    table = browser.find_element("id", "run-0-pair-table").text
    assert SCRIPT in table
    assert "The answer is: 0 <b>" in table  # what the patched run says at the chosen cell
    assert browser.title == "codi-lens report"
    assert not browser.find_elements("css selector", "td script, td b")


def test_cells_of_the_other_experiments_can_be_clicked(opened):
    browser, data = opened
    values = [run["groups"]["all"]["mean"] for run in data["runs"]]
    click_at(browser, "run-1-map", 1, values[1]["recovery"][0][1][0])  # a profile: layers rightward
    click_cell(browser, "run-2-map", 1, 2)
    for run, cell in ((1, (1, 0)), (2, (1, 2))):
        _until(lambda run=run: browser.find_elements("id", f"run-{run}-numbers"))
        check(numbers(browser, f"run-{run}"), values[run], cell)


def test_pointing_at_a_cell_tells_place_value_interval_and_n(opened):
    browser, data = opened
    choose(browser, "run-0-metric-menu", "recovery")
    choose(browser, "run-0-panel-menu", "0")
    choose(browser, "run-0-pair-menu", "")
    for run, cell in ((0, CELL), (1, (1, 0)), (2, (1, 2))):
        group, (i, j) = data["runs"][run]["groups"]["all"], cell
        x, y = (j, i) if run != 1 else (i, group["mean"]["recovery"][0][i][0])
        point_at(browser, f"run-{run}-map", x, y, aside=3 * (run != 1))
        hover = _until(lambda run=run: browser.find_elements("css selector", HOVER.format(run)))
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
    browser.execute_script("document.getElementById('run-2-pair-menu').focus()")
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element == figure
    assert figure.value_of_css_property("outline-style") == "solid"
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", figure)
    click_cell(browser, "run-2-map", 0, 0)
    keys = [Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_LEFT]
    figure.send_keys(*keys, Keys.ARROW_RIGHT, Keys.ENTER)
    assert "Cell: layer 2, iteration 1" in browser.find_element("id", "run-2-cell").text
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
            "return [...document.querySelectorAll('.map, .figures > div')]"
            ".every((box) => box.clientWidth <= 358)"
        )
        # What a figure is, is read without scrolling.
        said = browser.find_elements("css selector", ".figures h3, .figures p")
        figures = browser.find_elements("css selector", ".figures .js-plotly-plot")
        assert len(said) == 2 * len(figures)
        assert all(text.rect["x"] + text.rect["width"] <= 374 for text in said)
        assert not browser.find_elements("css selector", ".figures .gtitle")


def test_numbers_in_cells_can_be_read_in_light_and_in_dark(opened):
    browser, _ = opened
    for scheme, ground in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 22, 26)")):
        with emulated(browser, scheme=scheme):
            paper = "#run-0-map .main-svg"
            _until(lambda ground=ground, paper=paper: background(browser, paper) == ground)
            assert background(browser, "body") == ground
            assert background(browser, "#run-0-figures .main-svg") == ground
            for metric in ("recovery", "kl_divergence"):
                choose(browser, "run-0-metric-menu", metric)
                texts, trace = browser.execute_script(CELLS)
                assert len(texts) == 9
                reach = trace["zmax"] - trace["zmin"]
                places = [(z - trace["zmin"]) / reach for row in trace["z"] for z in row]
                cells = sample_colorscale(trace["colorscale"], places)
                assert min(map(contrast, texts, cells)) >= 4.5
            tick = browser.find_element("css selector", "#run-0-map .xtick text")
            assert contrast(tick.value_of_css_property("fill"), ground) >= 4.5


def background(browser, selector):
    found = browser.find_element("css selector", selector)
    return (
        found.value_of_css_property("background-color").replace("rgba", "rgb").replace(", 1)", ")")
    )


def test_every_figure_is_drawn(opened):
    browser, data = opened
    expected = sum(1 + len(run["figures"]) for run in data["runs"])
    expected += len(data["comparison"]["figures"])
    assert len(browser.find_elements("css selector", ".js-plotly-plot .main-svg")) >= expected


def test_nothing_is_asked_of_a_network_and_nothing_goes_wrong(opened):
    nothing_asked_and_nothing_wrong(opened[0])


def test_a_page_of_figures_asks_nothing_and_has_no_button_that_sends(browser, tmp_path):
    path = tmp_path / "heatmap.html"
    path.write_text(plots.page(plots.gallery(invented_sweep())), encoding="utf-8")
    browser.get(path.as_uri())
    _until(lambda: len(browser.find_elements("css selector", ".heatmaplayer")) >= 10)
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
    _until(lambda: "no cell has a value" in browser.find_element("id", "run-0-note").text)
    nothing_asked_and_nothing_wrong(browser)


def nothing_asked_and_nothing_wrong(browser):
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked, "the page itself is a request"
    assert {p["request"]["url"].split(":")[0] for p in asked} <= {"file", "data", "blob", "chrome"}
    wrong = [e for e in browser.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
    assert not wrong
