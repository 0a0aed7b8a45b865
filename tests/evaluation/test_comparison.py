import io

from rich.console import Console

from helpers.hostile_text import HOSTILE, is_harmless
from sealtune.evaluation import comparison


def test_hostile_names_stay_plain_text_in_markdown():
    evil = f"<img src=x onerror=steal()> [click](http://evil.test) | a | {HOSTILE} `x`"
    content = {
        "model": evil,
        "seeds": [0],
        "reference": "random",
        "methods": ["random"],
        "table": [],
        "selection": [],
        "failed": [{"method": "loss", "seed": 0, "error": evil}],
    }
    text = comparison.markdown(content)
    assert is_harmless(text) and len(text.splitlines()) == len(
        comparison.markdown(content | {"model": "m"}).splitlines()
    )
    assert "\\<img" in text and "\\[click\\](http\\://" in text and "\\| a \\|" in text
    from rich.markdown import Markdown

    screen = Console(file=io.StringIO(), force_terminal=True, width=400)
    screen.print(Markdown(text, hyperlinks=False))
    assert "\x1b]8;" not in screen.file.getvalue() and "<img" in screen.file.getvalue()
