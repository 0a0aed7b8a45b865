"""The page in a real browser: no text of a row, a model or a judge runs as a script or becomes a part of the page."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from xss import PAYLOADS

from sealtune.compare import Answered, _write
from sealtune.config import build_config
from sealtune.evaluation import metrics
from sealtune.records import Drop, Rejected, Response, Scores, Verdict
from sealtune.report.page import render
from sealtune.report.view import ReportView

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --virtual-time-budget=4000 --dump-dom"
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")


def dom(text, folder):
    """The page's tree after everything that wanted to run has run."""
    page = folder / "page.html"
    page.write_text(text, encoding="utf-8")
    command = [BROWSER, *FLAGS.split(), f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    return subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode("utf-8")


def ran(tree):
    """Whether a payload ran."""
    return 'data-ran="yes"' in tree[: tree.index("<head>")]


def without_policy(text):
    text, found = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text, count=1)
    assert found == 1
    return text


def view(texts):
    """A page of which every field is one of these texts."""
    n = len(texts)
    ids = [text.encode("utf-8", "replace").decode() for text in texts]  # as the door makes them
    names = tuple(f"{row_id} #{i}" for i, row_id in enumerate(ids))
    same = dict(zip(names, names, strict=True))
    one, models = np.arange(n, dtype=float), ("base", names[0])
    verdicts = [
        Verdict(name, model, name, kind, name, name, bool(i % 2), error=name if i % 3 == 0 else None)
        for i, name in enumerate(names)
        for kind in ("harmful", "harmless")
        for model in models
    ]
    return ReportView(
        title=texts[0] + texts[-1],
        config={"model_name_or_path": names[0], **same},
        manifest={"model": names[0], "versions": same, "stages": {name: {name: name} for name in names}, **same},
        scores=Scores(names, names, one, one, one, one, one.astype(np.int64)),
        texts={name: (text, text) for name, text in zip(names, texts, strict=True)},
        kept=frozenset(names[n // 2 :]),
        rejected=[Rejected(name, 1, 0.0, name) for name in names[: n // 2]],
        unsure=frozenset(names),
        sureness={"estimated_unsafe": None, "reliability": 0.5, "rows_near_the_threshold": n},
        drops=[Drop(name, name, name, name, {}) for name in names],
        rank_steps=[{"step": 1, "safe_loss": 1.0}, {"step": 2, "safe_loss": 0.5}],
        evaluation=metrics.summarise(verdicts),
        responses=[Response(i, m, i, i, t, t, 1, False) for i, t in zip(names, texts, strict=True) for m in models],
        verdicts=verdicts,
        labels={name: i % 2 for i, name in enumerate(names)},
        rows_shown=n,
    )


def comparison(texts, folder):
    """The page of a comparison whose answers, verdicts, sets and failures are these texts."""
    config = build_config({"model_name_or_path": "m", "output_dir": str(folder / "out")})
    answered = []
    for method in ("random", "seal"):
        verdicts = [Verdict(t, method, t, "harmful", t, t, bool(i % 2)) for i, t in enumerate(texts)]
        responses = [Response(t, method, t, t, t, t, 1, True) for t in texts]
        answered.append(Answered(method, 0, metrics.summarise(verdicts), responses, verdicts, {}))
    rows = [{"seeds": 1, "sd": None, **row, "difference": None} for part in answered for row in part.table]
    _write(config, rows, answered, [{"method": "loss", "seed": 0, "error": text} for text in texts])
    return (folder / "out" / "compare.html").read_text(encoding="utf-8")


class Skeleton(HTMLParser):
    """Tags and their attributes, in order, but for what shows invisible characters."""

    def __init__(self, text):
        super().__init__()
        self.parts = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if ("class", "hidden-char") not in attributes:
            self.parts.append((tag, *attributes))


def skeleton(text):
    """The page's own structure, up to where its figures' data begin."""
    text = re.sub(r'content="default-src[^"]*"', "", text)
    return Skeleton(text[: text.index('id="figure-data"')]).parts


def plain_texts():
    return [f"text {i}" for i in range(len(PAYLOADS))]


@pytest.mark.parametrize("page", ["report", "comparison"])
def test_no_text_becomes_a_part_of_the_page(tmp_path, page):
    if page == "report":
        hostile, plain = render(view(PAYLOADS)), render(view(plain_texts()))
    else:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        hostile, plain = comparison(PAYLOADS, tmp_path / "a"), comparison(plain_texts(), tmp_path / "b")
    assert skeleton(hostile) == skeleton(plain)
    shown = hostile[: hostile.index('id="figure-data"')]
    assert shown.count("data-ran") > len(PAYLOADS)  # the texts are there


@needs_browser
def test_no_script_of_a_report_runs(tmp_path):
    assert not ran(dom(render(view(PAYLOADS)), tmp_path))


@needs_browser
def test_escaping_alone_holds_too(tmp_path):
    tree = dom(without_policy(render(view(PAYLOADS))), tmp_path)
    assert not ran(tree)
    assert tree.count("js-plotly-plot") >= 3  # the page's own scripts did run, and drew the names
    inside = Skeleton(re.sub(r"<script>.*?</script>", "", tree, flags=re.DOTALL)).parts
    assert not [part for part in inside if any(key.startswith("on") for key, _ in part[1:])]
    assert not {part[0] for part in inside} & {"iframe", "object", "embed", "img", "input", "form", "base", "video"}
    links = {value for part in inside for key, value in part[1:] if key in ("href", "xlink:href")}
    assert all(link.startswith("#") or link == "data:," for link in links)


@needs_browser
def test_no_script_of_a_comparison_runs(tmp_path):
    text = comparison(PAYLOADS, tmp_path)
    assert not ran(dom(text, tmp_path))
    assert not ran(dom(without_policy(text), tmp_path))


@needs_browser
def test_the_browser_would_have_told_and_the_policy_alone_holds(tmp_path):
    """Payloads pasted into the page unescaped: without the policy one runs, with it none."""
    text = render(view(plain_texts()[:3]))
    pasted = text.replace("<main>", f"<main>{PAYLOADS[7]}{PAYLOADS[11]}{PAYLOADS[0]}", 1)
    assert ran(dom(without_policy(pasted), tmp_path))
    assert not ran(dom(pasted, tmp_path))
