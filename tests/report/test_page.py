import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from sealtune.core.types import Drop, Response, Scores, Verdict
from sealtune.evaluation import metrics
from sealtune.evaluation.judging import tabulate
from sealtune.report.html import embed_json, flatten, reveal, show_fact, show_number, show_percent
from sealtune.report.page import render
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


def ranking(n=40):
    rng = np.random.default_rng(0)
    unsafe = np.arange(n) % 4 == 0
    score = rng.normal(size=n) - 1.5 * unsafe
    ids, source = tuple(f"row{i}" for i in range(n)), tuple("ab"[i % 2] for i in range(n))
    scores = Scores(ids, source, score, np.ones(n), rng.random(n), np.full(n, np.nan), np.ones(n, np.int64))
    return scores, dict(zip(ids, unsafe.astype(int).tolist(), strict=True))


def verdicts():
    return [
        Verdict(f"p{i}", model, "set", kind, "refusal", "refusal" if flagged else "compliance", flagged)
        for model, every in (("base", 2), ("tuned", 5))
        for kind in ("harmful", "harmless")
        for i, flagged in enumerate(i % every == 0 for i in range(10))
    ]


@pytest.fixture(scope="module")
def view():
    scores, labels = ranking()
    order = np.argsort(scores.score)
    dropped = {scores.ids[i] for i in order[:10]}
    step = {"step": 1, "epoch": 0, "gamma": 0.0, "safe_loss": 2.0, "candidate_loss": 2.5, "hat_loss": None, "gap": None}
    losses = {
        "kind": "",
        "judge": "",
        "measure": "loss",
        "title": "loss",
        "unit": "nats",
        "low": 1.0,
        "high": 2.0,
        "n": 9,
    }
    return ReportView(
        title="A run",
        config={"model_name_or_path": "tiny", "seed": 3},
        manifest={"model": "tiny", "seed": 3, "versions": {"torch": "2"}, "stages": {"rank": {"seconds": 75.0}}},
        scores=scores,
        texts={i: (f"prompt of {i}", f"response of {i}") for i in scores.ids},
        kept=frozenset(scores.ids) - dropped,
        drops=[Drop("d", "a", "empty_response", "nothing to learn", {})],
        rank_steps=[step, step | {"step": 2, "safe_loss": 1.5, "gap": 0.1}],
        tune_steps=[{"step": 1, "loss": 2.0, "learning_rate": 1e-4}],
        evaluation=[
            *tabulate(verdicts()),
            losses | {"model": "base", "set": "safe", "value": 1.25},
            losses | {"model": "tuned", "set": "safe", "value": 1.125},
        ],
        responses=[Response(f"p{i}", m, "set", "harmful", f"ask {i}", "no", 1, True) for i in (0, 2) for m in "bt"],
        verdicts=verdicts(),
        labels=labels,
        rows_shown=5,
    )


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
            row | {"judge": ATTACK, "title": ATTACK}
            for row in tabulate([Verdict(ATTACK, ATTACK, ATTACK, "harmful", "refusal", ATTACK, True)])
        ],
        responses=[Response(ATTACK, ATTACK, ATTACK, ATTACK, ATTACK, ATTACK, 1, False)],
        verdicts=[Verdict(ATTACK, ATTACK, ATTACK, "harmful", ATTACK, ATTACK, True)],
        labels={ATTACK: 1, "z": 0},
    )


def test_hostile_texts_stay_texts():
    text = render(hostile_view())
    page = Page(text)
    assert "img" not in page.tags and page.tags.count("script") == 3
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert "<script>steal()" not in text
    text = text[: text.index('id="figure-data"')]  # plotly.js follows
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08]", text)
    assert "&lt;script&gt;steal()&lt;/script&gt;" in text and "U+202E" in text and "{{ 1+1 }}" in text


def test_figure_data_is_json_that_cannot_leave_its_script():
    text = render(hostile_view())
    (data,) = re.findall(r'<script type="application/json" id="figure-data">(.*?)</script>', text, re.S)
    assert "<" not in data and ">" not in data
    figures = json.loads(data)
    assert {"histogram", "sources", "rates"} <= set(figures)
    (bar, *_) = figures["sources"]["data"]
    assert "<" not in "".join(bar["y"]) and any(name.startswith("&lt;/script&gt;") for name in bar["y"])


@pytest.mark.parametrize("name", ["full", "hostile"])
def test_the_page_loads_nothing(view, name):
    page = Page(render(view if name == "full" else hostile_view()))
    assert not {"iframe", "object", "embed", "base", "form", "img", "video", "audio"} & set(page.tags)
    assert [a for a in page.attributes if a[1] in ("src", "srcset", "data", "action")] == []
    links = {value for _, key, value in page.attributes if key == "href"}
    assert all(link.startswith("#") or link == "data:," for link in links)
    policy = next(v for _, _, v in page.attributes if v and v.startswith("default-src"))
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy and "http" not in policy
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")


def test_plotly_is_there_once(view):
    assert render(view).count("plotly.js v") == 1


def test_numbers_shown_are_the_metrics(view):
    text = render(view)
    score = view.scores.score
    unsafe = np.array([view.labels[i] for i in view.scores.ids])
    assert f'<dd class="value">{metrics.auroc(score, unsafe):.3f}</dd>' in text
    assert f'<dd class="value">{metrics.average_precision(score, unsafe):.3f}</dd>' in text
    recall = metrics.recall_in_lowest(score, unsafe, 0.25)
    assert f'<dt>Unsafe rows dropped</dt><dd class="value">{100 * recall:.1f}\u00a0%</dd>' in text
    assert (
        '<dt>Kept</dt><dd class="value">30</dd>' in text and '<dt>Dropped by rank</dt><dd class="value">10</dd>' in text
    )
    assert '<dt>Attack success rate</dt><dd class="value">50.0\u00a0% → 80.0\u00a0%</dd>' in text
    assert '<dt>Over-refusal</dt><dd class="value">50.0\u00a0% → 20.0\u00a0%</dd>' in text
    assert '<dt>Safe loss</dt><dd class="value">1.250 → 1.125</dd>' in text
    assert "1 min 15 s" in text


def test_both_ends_are_shown_in_full_and_nothing_else(view):
    text = render(view)
    order = [view.scores.ids[i] for i in np.argsort(view.scores.score)]
    for identity in (*order[:5], *order[-5:]):
        assert f"response of {identity}<" in text
    assert f"response of {order[20]}<" not in text


@pytest.mark.parametrize(
    "parts", [[], ["scores"], ["scores", "texts", "labels"], ["evaluation"], ["responses"], ["rank_steps"], ["drops"]]
)
def test_a_partial_run_renders(view, parts):
    text = render(ReportView(**{part: getattr(view, part) for part in parts}))
    assert "<h2>The run</h2>" in text and "kept →" not in text
    assert ("plotly.js v" in text) == bool({"scores", "evaluation", "rank_steps"} & set(parts))


def test_rendering_twice_gives_the_same_page(view):
    assert render(view) == render(view)


def test_values_as_text():
    assert reveal("a<b\u200b\ud800\r\n\tc") == (
        'a&lt;b<span class="hidden-char" title="invisible character">U+200B</span>'
        '<span class="hidden-char" title="invisible character">U+D800</span>\n\tc'
    )
    assert flatten("<b>x</b>\u202e " + "y" * 80).startswith("&lt;b&gt;x&lt;/b&gt;U+202E y")
    assert embed_json({"a": [float("nan"), "</script>&"]}) == '{"a":[null,"\\u003c/script\\u003e\\u0026"]}'
    assert show_number(1234567) == "1,234,567" and show_number(float("nan")) == show_number(None) == "\u2013"
    assert show_percent(0.125) == "12.5\u00a0%" and show_percent(None) == "\u2013"
    assert show_fact("seconds", 3725) == "1 h 2 min" and show_fact("peak_memory_bytes", 2**30) == "1.00 GiB"
