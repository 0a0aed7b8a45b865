"""The page in a real browser: the slider, search, filters, sorting, the pane of a row, and decisions."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest

from helpers.browser import needs_browser, running_browser
from sealtune.cli.serve import FILE, Server
from sealtune.core.types import Neighbours
from sealtune.report.html import MISSING
from sealtune.report.page import render

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = needs_browser

ROWS = "#row-table tbody tr[data-place]"
WIDTHS = {"phone": 390, "tablet": 820, "desktop": 1280}


@pytest.fixture(scope="module")
def chromium():
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(view, tmp_path_factory):
    """A report with everything that a ranker may give; half of its rows are the same text."""
    rng, n = np.random.default_rng(1), len(view.scores)
    parts = {name: rng.normal(size=n) for name in ("fit", "probe")}
    scores = replace(view.scores, standard_error=np.full(n, 0.1), parts=parts, places=rng.normal(size=(n, 2)))
    texts = {i: (f"prompt {i}", "cake" if k % 2 else "<b>bold</b>\u202e") for k, i in enumerate(scores.ids)}
    path = tmp_path_factory.mktemp("report") / "report.html"
    near = {i: Neighbours(i, (scores.ids[k - 1], scores.ids[k - 2]), ("good",)) for k, i in enumerate(scores.ids)}
    shown = replace(view, scores=scores, texts=texts, neighbours=near, safe_texts={"good": ("ask", "<i>answer</i>")})
    path.write_text(render(shown), encoding="utf-8")
    return path


@pytest.fixture
def page(chromium, report):
    """The page, opened; at the end it has written no error and asked for no other file."""
    tab = chromium.new_page(viewport={"width": 1280, "height": 900})
    wrong = []
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: wrong.append(request.url) if request.url != report.as_uri() else None)
    tab.goto(report.as_uri())
    tab.wait_for_selector("html[data-ready]")
    yield tab
    tab.close()
    assert wrong == []


def scores_shown(page):
    return [float(cell) for cell in page.locator(f"{ROWS} td:first-child").all_text_contents() if cell != MISSING]


def test_rows_that_are_alike_are_named_and_opened(page, view):
    page.locator(ROWS).first.click()
    lowest = view.scores.ids[int(np.argmin(view.scores.score))]
    pane = page.locator("#row-detail")
    assert f"id{lowest}" in pane.locator("dl.facts").inner_text().replace("\n", "")
    assert "<i>answer</i>" in pane.inner_text() and pane.locator("i").count() == 0  # as text
    place = view.scores.ids.index(lowest)
    links = pane.locator("button.link")
    assert links.all_text_contents() == [view.scores.ids[place - 1], view.scores.ids[place - 2]]
    links.first.click()
    assert view.scores.ids[place - 1] in pane.locator("dl.facts").inner_text()


def test_the_lowest_scores_come_first_and_columns_sort(page):
    first = scores_shown(page)
    assert first == sorted(first) and len(first) > 10
    page.click("button[data-by=score]")
    turned = scores_shown(page)
    assert turned == sorted(turned, reverse=True) and turned != first
    assert page.get_attribute("th:has(button[data-by=score])", "aria-sort") == "descending"
    page.click("button[data-by=loss]")
    losses = [float(cell) for cell in page.locator(f"{ROWS} td:nth-child(5)").all_text_contents() if cell != MISSING]
    assert losses == sorted(losses)


def test_search_and_filters_narrow_the_rows(page):
    count = page.locator("#row-count")
    assert count.inner_text() == "41 of 41 rows"  # one of them could not be used
    page.fill("[name=search]", "CAKE")
    assert count.inner_text() == "20 of 41 rows"
    page.select_option("[name=state]", "dropped")
    dropped = int(count.inner_text().split()[0])
    assert 0 < dropped < 10
    page.fill("[name=search]", "")
    assert count.inner_text() == "10 of 41 rows"
    page.select_option("[name=state]", "")
    page.select_option("[name=label]", "unsafe")
    assert count.inner_text() == "10 of 41 rows"
    page.select_option("[name=label]", "")
    page.select_option("[name=source]", "a")
    assert count.inner_text() == "21 of 41 rows"
    page.select_option("[name=source]", "")
    page.select_option("[name=reason]", "empty_response")
    assert count.inner_text() == "1 of 41 rows"
    page.click(ROWS)
    assert "the response is empty" in page.inner_text("#row-detail")
    page.select_option("[name=reason]", "")
    page.fill("[name=low]", "0")
    assert all(score >= 0 for score in scores_shown(page))


def test_the_slider_says_what_would_be_dropped(page, view):
    said = page.locator("#threshold-said")
    assert "10 rows dropped (25.0%), 30 kept" in said.inner_text()
    page.evaluate(
        "input => { input.value = 0; input.dispatchEvent(new Event('input')) }", page.query_selector("#threshold")
    )
    assert "0 rows dropped (0.0%), 40 kept; 0 of the 10 rows labelled unsafe" in said.inner_text()
    lowest = float(page.inner_text("#threshold-command").split("threshold=")[1])
    assert lowest == pytest.approx(view.scores.score.min(), abs=1e-4)


def test_a_row_opens_with_its_reasons_and_its_text_is_inert(page):
    page.fill("[name=search]", "bold")
    page.click(ROWS)
    pane = page.locator("#row-detail")
    assert pane.locator(".text").nth(1).inner_text() == "<b>bold</b>U+202E"
    assert pane.locator("b, script").count() == 0
    assert "below the threshold" in pane.inner_text()
    said = pane.locator("[role=img]").get_attribute("aria-label")
    assert said.startswith("The score as a sum: fit ")
    assert pane.locator("svg").count() == 1


def test_decisions_are_made_by_key_and_in_bulk_and_saved_as_lines(page, tmp_path):
    page.fill("#person", "Ada")
    page.click(ROWS)
    page.focus("#row-table")
    for key in ("n", "ArrowDown", "y", "ArrowDown", "u"):
        page.keyboard.press(key)
    assert page.inner_text("#decision-count") == "3 decisions"
    with page.expect_download() as download:
        page.click("#save-decisions")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    made = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.name == "decisions.jsonl"
    assert [(one["decision"], one["by"]) for one in made] == [("drop", "Ada"), ("keep", "Ada"), ("unsure", "Ada")]
    assert len({one["id"] for one in made}) == 3 and all(one["at"].endswith("Z") for one in made)
    page.select_option("[name=label]", "unsafe")
    page.click("[data-mark-all=drop]")
    assert int(page.inner_text("#decision-count").split()[0]) >= 10
    page.click("#undo-decisions")
    assert page.inner_text("#decision-count") == "3 decisions"
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.set_input_files("#load-decisions", path)
    page.get_by_text("3 decisions", exact=True).wait_for()
    page.select_option("[name=decision]", "drop")
    assert page.inner_text("#row-count").startswith("1 of")


def test_decisions_on_a_served_page_are_saved_in_the_run_and_there_when_it_is_opened_again(chromium, report, view):
    server = Server(report.parent, view.scores.ids)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tab = chromium.new_page()
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(server.address)
    tab.wait_for_selector("html[data-ready]")
    tab.click(ROWS)
    tab.click("[data-decide=drop]")
    tab.click("#save-decisions")
    tab.get_by_text("1 decisions, saved in the folder of the run").wait_for()
    (made,) = map(json.loads, (report.parent / FILE).read_text().splitlines())
    assert made["decision"] == "drop" and made["id"] == min(view.scores.by_id().items(), key=lambda item: item[1])[0]
    tab.reload()
    tab.get_by_text("1 decisions", exact=True).wait_for()
    assert {url.rpartition("/")[0] + "/" for url in asked} == {server.address}
    tab.close()
    server.shutdown()
    server.server_close()


def test_a_file_that_is_none_of_decisions_is_said_and_changes_nothing(page, tmp_path):
    path = tmp_path / "wrong.jsonl"
    path.write_text('{"id": "row1", "decision": "perhaps"}\n')
    page.set_input_files("#load-decisions", path)
    page.get_by_text("This is not a file of decisions").wait_for()
    page.select_option("[name=decision]", "none")
    assert page.inner_text("#row-count") == "41 of 41 rows"


def test_the_least_certain_rows_come_first_in_the_queue(page, view):
    page.click("#review")
    cut = min(view.scores.score[[i in view.kept for i in view.scores.ids]])
    distances = [abs(score - cut) for score in scores_shown(page)]
    assert distances == sorted(distances) and distances[0] < 1e-3


def test_the_map_colours_and_opens_rows(page):
    page.locator("#figure-map").scroll_into_view_if_needed()
    page.wait_for_selector("#figure-map circle")
    assert page.locator("#figure-map circle").count() >= 40
    page.select_option("#map-colour", "label")
    assert {"safe", "unsafe"} <= set(page.inner_text("#figure-map").split())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_no_width_needs_scrolling_sideways(chromium, report, width, scheme):
    tab = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab.goto(report.as_uri())
    tab.wait_for_selector("html[data-ready]")
    tab.click(ROWS)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_no_serious_finding(chromium, report, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    context = chromium.new_context(color_scheme=scheme, bypass_csp=True)  # axe is a script that the page does not know
    tab = context.new_page()
    tab.goto(report.as_uri())
    tab.wait_for_selector("html[data-ready]")
    tab.click(ROWS)
    found = axe.Axe().run(tab).response["violations"]
    assert [(one["id"], one["help"]) for one in found if one["impact"] in ("serious", "critical")] == []
    context.close()
