"""The direction of imports, as the design lays it down."""

import ast
from pathlib import Path

import pytest

import sealtune

ROOT = Path(sealtune.__file__).parent
FORBIDDEN = {  # layer: (its modules, what they must never import, at any depth of a function)
    "records": (
        ["records", "encoded", "config", "plain_yaml", "telling", "texts", "lines"],
        ["torch", "transformers", "sealtune.data", "sealtune.pipeline.folder"],
    ),
    "processes": (
        ["processes", "launch"],
        ["sealtune.core.config", "sealtune.data", "sealtune.pipeline.folder", "sealtune.ranking.loop"],
    ),
    "maths": (
        ["losses", "selector", "bilevel", "scorer", "regression", "contamination"],
        ["transformers", "peft", "pathlib", "sealtune.core.config", "sealtune.pipeline.folder", "sealtune.data"],
    ),
    "material": (
        ["data", "adapters", "language_model", "models"],
        ["sealtune.pipeline.folder", "sealtune.ranking.loop", "sealtune.pipeline.run"],
    ),
    "verbs": (
        [
            "train",
            "players",
            "fitting",
            "scratch",
            "rankers",
            "evaluation",
            "selection",
            "examine",
            "finetune",
            "trainer",
            "resumable",
        ],
        ["sealtune.pipeline.folder", "sealtune.pipeline.run", "sealtune.cli.main"],
    ),
    "edges": (
        ["store", "intact", "row_cache", "token_cache", "checkpoints", "ledger", "report"],
        ["sealtune.ranking.methods", "sealtune.ranking.loop", "sealtune.pipeline.run"],
    ),
    "glue": (
        ["material", "pipeline", "stages", "recorder", "results", "card", "api", "unseen", "compare", "comparison"],
        ["sealtune.cli.main"],
    ),
    "estimates": (
        ["needs", "plan", "operations", "memory", "shapes"],
        ["transformers", "sealtune.models.load", "sealtune.pipeline.run", "sealtune.cli.main"],
    ),
}


def files_of(module):
    path = ROOT / module
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def imports(path):
    """Modules that a file imports, without those that only a type checker sees."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_no_layer_imports_what_it_must_not(layer):
    modules, forbidden = FORBIDDEN[layer]
    for module in modules:
        for path in files_of(module):
            for name in imports(path):
                assert not any(name == f or name.startswith(f"{f}.") for f in forbidden), f"{path.name} imports {name}"


def test_every_module_belongs_to_a_layer():
    face = {"cli", "command_line", "failing", "console", "inspect", "environment", "__init__", "__main__"}
    known = {name for modules, _ in FORBIDDEN.values() for name in modules} | face
    found = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert found == known


@pytest.mark.parametrize("folder", ["rankers", "data/readers", "evaluation/judges"])
def test_no_plug_in_imports_another(folder):
    package = "sealtune." + folder.replace("/", ".")
    plug_ins = {f"{package}.{p.stem}" for p in (ROOT / folder).glob("*.py") if p.stem != "__init__"}
    for path in (ROOT / folder).glob("*.py"):
        assert not plug_ins & set(imports(path)), path


def test_nothing_pickles():
    for path in ROOT.rglob("*.py"):
        assert not {"pickle", "dill", "cloudpickle"} & set(imports(path)), path
        assert "torch.load" not in path.read_text(encoding="utf-8"), path
        assert "torch.save" not in path.read_text(encoding="utf-8"), path
