"""The direction of imports, as docs/architecture.md states it; imports that only a type checker sees count, too."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sealtune

PACKAGE = Path(sealtune.__file__).parent
FLOORS = [
    {"core"},
    {"data"},
    {"models"},
    {"ranking", "tuning", "evaluation"},
    {"report"},
    {"pipeline"},
    {"cli", "api"},
    {"__main__", "__init__"},
]
MATHS = [
    "models/losses.py",
    "ranking/bilevel.py",
    "ranking/selector.py",
    "ranking/linear_models.py",
    "ranking/scorer.py",
    "tuning/guard.py",
    "models/predictions.py",
]
PLUG_INS = ["ranking/methods", "data/formats", "evaluation/judges", "pipeline/export"]


def module(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in PACKAGE.rglob("*.py")}


def imports(path):
    """Names of everything that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names
            if not names <= MODULES.keys():  # something else than modules of a package
                yield node.module


def room(name):
    """The room of a module: the folder, or the file, directly under the package."""
    return [*name.split("."), "__init__"][1]


def floor(name):
    return next(i for i, rooms in enumerate(FLOORS) if room(name) in rooms)


def test_the_package_has_these_rooms_and_no_other_files():
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert found == set().union(*FLOORS)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_its_own_room_and_those_below(name):
    for imported in set(imports(MODULES[name])) & MODULES.keys():
        assert room(imported) == room(name) or floor(imported) < floor(name), f"{name} imports {imported}"


def test_no_modules_import_each_other_in_a_circle():
    lazy = {"sealtune"}  # the verbs are imported on first use
    graph = {name: set(imports(path)) & MODULES.keys() - {name} - lazy for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", MATHS)
def test_the_maths_knows_no_files_no_config_and_no_transformers(path):
    forbidden = ("transformers", "peft", "pathlib", "sealtune.core.config", "sealtune.core.files", "sealtune.data")
    assert not [name for name in imports(PACKAGE / path) if name.startswith(forbidden)]


@pytest.mark.parametrize("folder", PLUG_INS)
def test_no_plug_in_imports_another(folder):
    names = {module(path) for path in (PACKAGE / folder).glob("*.py") if path.stem != "__init__"}
    assert names
    for name in names:
        assert not names & set(imports(MODULES[name])), name


def test_nothing_pickles():
    for path in MODULES.values():
        assert not {"pickle", "dill", "cloudpickle"} & set(imports(path)), path
        assert "torch.load" not in path.read_text(encoding="utf-8"), path
        assert "torch.save" not in path.read_text(encoding="utf-8"), path
