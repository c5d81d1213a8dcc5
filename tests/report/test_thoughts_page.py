"""The page of one question: what it holds, and what a reader sees of it."""

import json
from dataclasses import replace

import pytest

from codi_lens import HookedCodi, load_pairs, read_thoughts, train_tuned_lens
from codi_lens.report.thoughts import show_thoughts, thoughts_page
from codi_lens.report.thoughts.page import as_json
from tests.report.reader import choose, emulated, nothing_asked_and_nothing_wrong


@pytest.fixture(scope="module")
def codi():
    return HookedCodi.from_pretrained("toy")


@pytest.fixture(scope="module")
def found(codi):
    return read_thoughts(codi, load_pairs("toy")[5])


def test_kinds_of_positions(found):
    data = as_json(found)
    named = list(zip(data["labels"], data["kinds"], strict=True))
    assert [label for label, kind in named if kind == "numbers"] == ["12", "6", "2"]
    assert [label for label, kind in named if kind == "frame"] == ["<s>", "<bot>"]
    assert [label for label, kind in named if kind == "thoughts"] == [f"z{k}" for k in range(6)]
    assert [label for label, kind in named if kind == "eot"] == ["<eot>"]


def test_a_notebook_has_the_same_page_in_a_frame(codi, found):
    shown = codi.show_thoughts(load_pairs("toy")[5], height=700).data
    assert shown == show_thoughts(codi, load_pairs("toy")[5], height=700).data
    assert "height:700px" in shown
    page = thoughts_page(found)
    assert "{{" not in page.split("<script", 1)[0]
    data = json.loads(page.split('id="data">', 1)[1].split("</script>", 1)[0])
    assert data["question"] == found.question
    assert sum(data["attention"][0][0][0]) == pytest.approx(10_000, abs=20)


def test_a_question_with_braces_takes_nothing_elses_place(found):
    asked = "What is {{data}} of {{style}}?"
    page = thoughts_page(replace(found, question=asked))
    assert f"<title>{asked}</title>" in page
    data = json.loads(page.split('id="data">', 1)[1].split("</script>", 1)[0])
    assert data["question"] == asked


@pytest.fixture(scope="module")
def opened(browser, found, tmp_path_factory):
    path = tmp_path_factory.mktemp("thoughts") / "page.html"
    path.write_text(thoughts_page(found), encoding="utf-8")
    browser.get(path.as_uri())
    return browser


def cell(browser, row, column):
    return browser.find_element("css selector", f'td[data-row="{row}"][data-column="{column}"]')


def text_of(node):
    return node.get_attribute("textContent")


@pytest.mark.browser
def test_the_numbers_on_the_page_are_those_of_the_api(opened, found):
    reading = found.readings["logit lens"]
    for row, steps in enumerate(reading.said):
        for column, (top, *_) in enumerate(steps):
            shown = text_of(cell(opened, row, column))
            assert shown == top.text.replace(" ", "␣") + f"{top.share:.2f}"
    facts = opened.find_elements("css selector", "td[data-fact]")
    by_name = {}
    for fact in facts:
        by_name.setdefault(fact.get_attribute("data-fact"), []).append(text_of(fact))
    assert by_name["if zeroed"][1:-1] == [f"{p:.2f}" for p in found.zero.tolist()]
    assert by_name["if swapped"][1:-1] == [f"{p:.2f}" for p in found.resample.tolist()]
    heads = opened.find_elements("css selector", "thead button")
    assert list(map(text_of, heads)) == ["bot", *(f"thought {k}" for k in range(6)), "eot"]
    # No thought is fed at bot, nor at eot.
    fed = ["", *(text_of(cell(opened, 2, k)) for k in range(6)), ""]
    assert [text_of(cell(opened, -1, column)) for column in range(8)] == fed
    stops = [f"{stop.answer} {stop.own:.2f}" for stop in found.stops]
    assert by_name["stop here"] == [*stops, stops[-1]]
    best = found.recovery.values("recovery")[0, 0].amax(0).tolist()
    assert by_name["best recovery"][1:-1] == [f"{value:.2f}" for value in best]
    choose(opened, "view", "recovery")
    for row, values in enumerate(found.recovery.values("recovery")[0, 0].tolist(), start=-1):
        shown = [text_of(cell(opened, row, k + 1)) for k in range(len(values))]
        assert shown == [f"{value:.2f}" for value in values]
    choose(opened, "view", "says")


@pytest.mark.browser
def test_known_results_are_marked_where_they_become_readable(opened, found):
    readable = {result.readable for result in found.readings["logit lens"].results} - {None}
    marked = opened.find_elements("css selector", ".box.first")
    places = [box.find_element("xpath", "..") for box in marked]
    at = {(int(p.get_attribute("data-row")), int(p.get_attribute("data-column"))) for p in places}
    assert at == readable
    (layer, step), *_ = readable
    opened.find_element("css selector", f'[data-result="{36}"] button').click()
    assert cell(opened, layer, step).get_attribute("aria-selected") == "true"


@pytest.mark.browser
def test_what_a_thought_reads_glows(opened, found):
    from selenium.webdriver import ActionChains

    mean = found.attention.of()
    column = found.steps.index(3)
    ActionChains(opened).move_to_element(cell(opened, 0, column)).perform()
    tokens = opened.find_elements("css selector", ".token")
    shown = [float(token.get_attribute("title")) for token in tokens]
    assert shown == pytest.approx(mean[column, : len(tokens)].tolist(), abs=0.0051)
    choose(opened, "source", "2.1")
    cell(opened, 2, column).click()
    shown = [float(token.get_attribute("title")) for token in tokens]
    assert shown == pytest.approx(
        found.attention.of(2, 1)[column, : len(tokens)].tolist(), abs=0.0051
    )
    choose(opened, "source", "")


@pytest.mark.browser
def test_keys_move_and_phones_do_not_scroll_sideways(opened):
    from selenium.webdriver.common.keys import Keys

    cell(opened, 2, 3).click()
    opened.switch_to.active_element.send_keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    assert cell(opened, 1, 4).get_attribute("aria-selected") == "true"
    assert opened.find_element("css selector", "#detail h2").text == "thought 3, layer 1"
    with emulated(opened, width=390):
        script = "return document.documentElement.scrollWidth"
        assert opened.execute_script(script) <= 390
    nothing_asked_and_nothing_wrong(opened)


@pytest.mark.browser
def test_another_lens_can_be_read_by(browser, codi, tmp_path):
    pair = load_pairs("toy")[5]
    questions = [one.clean.question for one in load_pairs("toy")[:16]]
    tuned = train_tuned_lens(codi, questions, learning_steps=3)
    read = read_thoughts(codi, pair, tuned=tuned)
    page = tmp_path / "page.html"
    page.write_text(thoughts_page(read), encoding="utf-8")
    browser.get(page.as_uri())
    choose(browser, "lens", "tuned lens")
    for name in ("logit lens", "tuned lens"):
        choose(browser, "lens", name)
        top = read.readings[name].said[0][4][0]
        assert text_of(cell(browser, 0, 4)).endswith(f"{top.share:.2f}")
    shares = [reading.said[0][4][0].share for reading in read.readings.values()]
    assert shares[0] != pytest.approx(shares[1], abs=0.01)
