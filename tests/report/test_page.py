import base64
import gzip
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from sealtune.core.types import Drop, Response, Scores, Verdict
from sealtune.evaluation.judging import tabulate
from sealtune.report.page import render
from sealtune.report.tiles import headline_tiles, summary
from sealtune.report.view import ReportView

ATTACK = (
    "</script></style></title><script>steal()</script><img src=http://evil.test/x onerror=steal()>"
    "\u202e\u2066\x07{{ 1+1 }}"
)


class Page(HTMLParser):
    """The tags, attributes and script texts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.extend((tag, *attribute) for attribute in attributes)

    def handle_data(self, data):
        if self.tags[-1:] == ["script"]:
            self.scripts.append(data)


def hostile_view():
    texts = {ATTACK: (ATTACK, ATTACK), "z": (ATTACK, ATTACK)}
    scores = Scores((ATTACK, "z"), (ATTACK, "s"), *np.ones((4, 2)) * [[0.0, 1.0]], np.ones(2, np.int64))
    return ReportView(
        title=ATTACK,
        config={"model_name_or_path": ATTACK, ATTACK: [ATTACK]},
        manifest={"command": ATTACK, "versions": {ATTACK: ATTACK}, "stages": {ATTACK: {ATTACK: ATTACK}}},
        scores=scores,
        texts=texts,
        kept=frozenset("z"),
        drops=[Drop(ATTACK, ATTACK, ATTACK, ATTACK, {})],
        evaluation=[
            row | {"judge": ATTACK, "title": ATTACK} | source
            for model, source in ((ATTACK, {}), (f"{ATTACK} 2", {"source": ATTACK}))
            for row in tabulate([Verdict(ATTACK, model, ATTACK, "harmful", "refusal", ATTACK, True)])
        ],
        guard={
            "mode": ATTACK,
            "tolerance": ATTACK,
            "history": [{"step": 0.0, "refuse": 0.1, ATTACK: 1.0}, {"step": 1.0, "refuse": 0.2}],
            "kept_step": ATTACK,
            "steps": ATTACK,
        },
        safe_set=[{"name": ATTACK, "severity": "warning", "fact": ATTACK, "advice": ATTACK}],
        beside=[{"name": f"{ATTACK} 2", "source": ATTACK, "notes": [ATTACK]}],
        responses=[Response(ATTACK, ATTACK, ATTACK, ATTACK, ATTACK, ATTACK, 1, False)],
        verdicts=[Verdict(ATTACK, ATTACK, ATTACK, "harmful", ATTACK, ATTACK, True)],
        labels={ATTACK: 1, "z": 0},
    )


def test_hostile_text_stays_text():
    text = render(hostile_view())
    page = Page(text)
    assert "img" not in page.tags and page.tags.count("script") == 6
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert "<script>steal()" not in text
    text = text[: text.index('id="figure-data"')]  # libraries follow
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08]", text)
    assert "&lt;script&gt;steal()&lt;/script&gt;" in text and "U+202E" in text and "{{ 1+1 }}" in text


def test_figure_data_is_json_that_cannot_close_its_script():
    text = render(hostile_view())
    (data,) = re.findall(r'<script type="application/json" id="figure-data">(.*?)</script>', text, re.S)
    assert "<" not in data and ">" not in data
    figures = json.loads(data)
    assert {"histogram", "sources", "shares"} <= set(figures)
    assert any(name.startswith("</script>") for name in figures["sources"]["names"])  # a text node of the figure


@pytest.mark.parametrize("name", ["full", "hostile"])
def test_the_page_makes_no_request(view, name):
    page = Page(render(view if name == "full" else hostile_view()))
    assert not {"iframe", "object", "embed", "base", "img", "video", "audio"} & set(page.tags)
    assert [a for a in page.attributes if a[1] in ("src", "srcset", "data", "action")] == []
    links = {value for _, key, value in page.attributes if key == "href"}
    assert all(link.startswith("#") or link == "data:," for link in links)
    policy = next(v for _, _, v in page.attributes if v and v.startswith("default-src"))
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy and "http" not in policy
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")


def test_figures_of_other_runs_are_marked_with_their_source(view):
    other = [row | {"model": "plain", "source": "runs/plain"} for row in view.evaluation if row["model"] == "tuned"]
    beside = [{"name": "plain", "source": "runs/plain", "notes": ["left out: a, b"]}]
    text = render(replace(view, evaluation=[*view.evaluation, *other], beside=beside))
    assert 'plain<br><span class="interval">runs/plain</span></th>' in text
    assert "<b>plain</b> is another run; its figures come from <b>runs/plain</b>; left out: a, b." in text


def test_warnings_about_the_safe_set_come_first(view):
    found = [("fine", "enough rows", "nothing"), ("advice", "few twins", "add"), ("warning", "no helping half", "add")]
    findings = [{"name": "x", "severity": s, "fact": fact, "advice": advice} for s, fact, advice in found]
    text = render(replace(view, safe_set=findings))
    places = [text.index(f"{fact}{end}") for fact, end in (("no helping half", "; add"), ("few twins", "; add"))]
    assert places == sorted(places) and text.index("<li>enough rows</li>") > places[-1]
    assert 'href="#safe-set"' in text and 'id="safe-set"' not in render(view)


def test_the_evaluation_is_the_first_table_of_the_page(view):
    text = render(view)
    assert text.index('id="evaluation"') < text.index("<table>") < text.index('id="scores"')


def test_the_libraries_are_on_the_page_once(view):
    text = render(view)
    assert text.count("https://d3js.org v") == text.count("@observablehq/plot v") == 1


def test_tiles_and_stages_are_on_the_page(view):
    text = render(view)
    for tile in headline_tiles(view):
        assert f'<dt>{tile.name}</dt><dd class="value">{tile.value}</dd>' in text
    assert summary(view) in text
    assert "1 min 15 s" in text


def rows_of(text):
    """What the page holds of its rows."""
    (packed,) = re.findall(r'id="row-data">(.*?)</script>', text)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_every_row_is_on_the_page_the_lowest_first(view):
    rows = rows_of(render(view))
    assert rows["ids"] == [view.scores.ids[i] for i in np.argsort(view.scores.score)]
    assert rows["rank"] == list(range(40, 0, -1))
    assert rows["texts"]["responses"][0] == f"response of {rows['ids'][0]}"
    assert rows["unusable"] == [["d", "a", "empty_response", "the response is empty"]]


@pytest.mark.parametrize(
    "parts", [[], ["scores"], ["scores", "texts", "labels"], ["evaluation"], ["responses"], ["rank_steps"], ["drops"]]
)
def test_a_partial_run_renders(view, parts):
    text = render(ReportView(**{part: getattr(view, part) for part in parts}))
    assert "<h2>Run details</h2>" in text and "kept →" not in text
    assert ("https://d3js.org v" in text) == bool({"scores", "evaluation", "rank_steps"} & set(parts))


def test_rendering_twice_gives_the_same_page(view):
    assert render(view) == render(view)
