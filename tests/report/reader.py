"""A reader of the page, in a browser: what they point at, choose, and see."""

import json
from contextlib import contextmanager

import pytest

CELL = (2, 1)


HOVER = "#run-{}-map .hoverlayer .hovertext"


CELLS = """const map = document.getElementById("run-0-map"), {z, zmin, zmax, colorscale} = map.data[0];
const texts = [...map.querySelectorAll(".heatmap-label tspan")].map((t) => getComputedStyle(t).fill);
return [texts, {z, zmin, zmax, colorscale}]"""


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


def until(condition, seconds=60):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(None, seconds, ignored_exceptions=[IndexError]).until(
        lambda _: condition()
    )


def choose(browser, name, value):
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("id", name)).select_by_value(value)


def tab(browser, run, name):
    """Opens a tab of a run's view, by what stands on it."""
    (button,) = (
        b for b in browser.find_elements("css selector", f"#run-{run} [role=tab]") if b.text == name
    )
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    assert button.get_attribute("aria-selected") == "true"


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


def rows_of(browser, selector):
    """The cells' texts of a table's rows, also where it is folded away."""
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])]"
        ".map((row) => [...row.querySelectorAll('td')].map((cell) => cell.textContent))",
        selector,
    )


def numbers(browser, name):
    """metric -> (value, interval) of the table of the chosen cell."""
    named = "return [...document.querySelectorAll(arguments[0])].map((row) => row.dataset.metric)"
    rows = f"#{name}-numbers tr"
    return dict(zip(browser.execute_script(named, rows), rows_of(browser, rows), strict=True))


def check(found, values, cell, panel=0):
    for metric, texts in found.items():
        wanted = values[metric][panel][cell[0]][cell[1]]
        if wanted is None:
            assert texts[0] == "–", metric
        else:
            assert float(texts[0]) == pytest.approx(wanted, rel=1e-4), metric


def style(browser, selector, name):
    """A property of an element, as it is drawn; read at once, since figures are drawn anew."""
    found = browser.execute_script(
        "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]",
        selector,
        name,
    )
    return found.replace("rgba", "rgb").replace(", 1)", ")")


def nothing_asked_and_nothing_wrong(browser):
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked, "the page itself is a request"
    assert {p["request"]["url"].split(":")[0] for p in asked} <= {"file", "data", "blob", "chrome"}
    wrong = [e for e in browser.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
    assert not wrong
