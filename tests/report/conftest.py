"""Chromium with the page open."""

import shutil

import pytest

from codi_lens.report.build import report
from tests.models.invented import invented_sweep
from tests.report.reader import until
from tests.report.test_build import MANIFEST, data_of


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
        "again": invented_sweep(seed=1),
    }
    text = report(runs, dict.fromkeys(runs, MANIFEST))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text, encoding="utf-8")
    browser.get(path.as_uri())
    until(lambda: browser.find_element("tag name", "body").get_attribute("data-ready"))
    return browser, data_of(text)
