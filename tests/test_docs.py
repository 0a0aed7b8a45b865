"""What the documents say of the code is held by tests."""

import re
from pathlib import Path

import pytest

from sealtune.core import config

ROOT = Path(__file__).parents[1]
PLACES = re.findall(r"`([a-z_/]+\.py):(\d+)`, `([^`]+)`", (ROOT / "docs/method.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("file, line, name", PLACES)
def test_equations_stand_where_the_method_page_says(file, line, name):
    text = (ROOT / "src/sealtune" / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
    assert name in text


def test_there_are_equations():
    assert len(PLACES) >= 10


def test_every_key_of_the_config_is_in_the_index_of_defaults():
    index = (ROOT / "docs/paper_index.md").read_text(encoding="utf-8")
    blocks = [b for b in vars(config).values() if isinstance(b, type) and issubclass(b, config.Block)]
    keys = {key for block in blocks for key, f in block.model_fields.items() if not f.is_required() and not f.exclude}
    stages = {"rank", "select", "tune", "evaluate", "report", "compare"}
    data = {"datasets", "safe_datasets", "label_column", "output_dir"}
    missing = {key for key in keys - stages - data if not re.search(rf"[`.]{key}`", index)}
    assert not missing


def test_every_link_of_the_readme_leads_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / target).exists(), target
