"""The documents agree with the code: cited symbols exist, links lead somewhere, every config key has its source."""

import ast
import re
from pathlib import Path

import pytest

from sealtune.core import config

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]
}
HISTORY = ("docs/LOG.md", "CHANGELOG.md")
"""They name what was there at their time."""
CURRENT = {name: text for name, text in PAGES.items() if name not in HISTORY}
SYMBOLS = sorted({found for text in CURRENT.values() for found in re.findall(r"`([\w/]+\.py)::([\w.]+)`", text)})
FILES = sorted(
    {found for text in CURRENT.values() for found in re.findall(r"`([\w/]+/[\w/]+\.\w+)`(?!:\n\n```)", text)}
)


@pytest.mark.parametrize(("file", "symbol"), SYMBOLS)
def test_cited_symbols_exist_in_the_file_named(file, symbol):
    body = ast.parse((ROOT / "src/sealtune" / file).read_text(encoding="utf-8")).body
    for name in symbol.split("."):
        found = [node for node in body if name in defined_names(node)]
        assert found, f"{file} has no {symbol}"
        body = getattr(found[0], "body", [])


def defined_names(node):
    """What a statement of a module or a class defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def test_the_method_page_cites_every_equation():
    cited = re.findall(r"^\|.*\| `[\w/]+\.py::[\w.]+` \|$", PAGES["docs/method.md"], re.MULTILINE)
    assert len(cited) >= 14


@pytest.mark.parametrize("file", FILES)
def test_cited_files_exist(file):
    folders = (ROOT, ROOT / "src/sealtune")
    pattern = file.replace("NAME", "*")
    generated = re.match(r"(rank|select|tune|evaluate|runs|mixtures|safe|prompts)/", file) and not file.endswith(".py")
    assert generated or any(list(folder.glob(pattern)) for folder in folders)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = PAGES[page]
    pictures = re.findall(r'src(?:set)?="(?!https?:)([^"]+)"', text)
    for target in [*re.findall(r"\]\((?!https?:|#)([^)#]+)", text), *pictures]:
        assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", CURRENT)
def test_commands_name_scripts_and_configs_that_exist(page):
    for script in re.findall(r"(?:benchmarks|configs)/[\w/.-]+\.(?:py|yaml)", CURRENT[page]):
        made_up = script in ("configs/mine.yaml",)
        assert made_up or list(ROOT.glob(script.replace("NAME", "*"))), script


def test_every_config_key_is_in_the_index_of_defaults():
    index = PAGES["docs/paper_index.md"]
    blocks = [b for b in vars(config).values() if isinstance(b, type) and issubclass(b, config.Block)]
    keys = {key for block in blocks for key, f in block.model_fields.items() if not f.is_required() and not f.exclude}
    stages = {"rank", "select", "tune", "evaluate", "report", "compare"}
    data = {"datasets", "safe_datasets", "label_column", "output_dir"}
    missing = {key for key in keys - stages - data if not re.search(rf"[`.]{key}`", index)}
    assert not missing
