import json

import numpy as np
import pytest

from sealtune.core.errors import UserError
from sealtune.core.files import Folder


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "run")


def names(folder):
    return sorted(str(p.relative_to(folder.root)) for p in folder.root.rglob("*") if p.is_file())


def test_a_file_is_written_completely_or_not_at_all(folder):
    folder.write_text("a.txt", "first")
    with pytest.raises(RuntimeError), folder.atomic_file("a.txt") as scratch:
        scratch.write_text("half")
        raise RuntimeError
    assert names(folder) == ["a.txt"]
    assert folder.path("a.txt").read_text() == "first"


def test_a_folder_is_written_completely_or_not_at_all(folder):
    with pytest.raises(RuntimeError), folder.atomic_folder("tune") as scratch:
        (scratch / "x").write_text("half")
        raise RuntimeError
    assert names(folder) == []
    for content in ("one", "two"):
        with folder.atomic_folder("tune") as scratch:
            (scratch / "x").write_text(content)
    assert folder.path("tune/x").read_text() == "two"
    assert names(folder) == ["tune/x"]


def test_json_contains_no_nan_and_rows_survive(folder):
    folder.write_json("x.json", {"a": [float("nan"), np.float64(2.0)]})
    assert json.loads(folder.path("x.json").read_text(), parse_constant=pytest.fail) == {"a": [None, 2.0]}
    row = {"text": "line\u2028separator \ud800 <|im_end|>\n", "n": 1}
    folder.write_jsonl("rows.jsonl", [row, row])
    assert folder.read_jsonl("rows.jsonl") == [row, row]
    assert folder.path("rows.jsonl").read_text(encoding="utf-8").count("\n") == 2


def test_prepare_removes_leftovers_of_a_killed_run_and_refuses_a_file(folder, tmp_path):
    folder.write_text("rank/a", "x")
    folder.path("rank/.b.part").write_text("half")
    folder.path(".tune.x.part").mkdir()
    folder.prepare()
    assert names(folder) == ["rank/a"]
    assert not folder.path(".tune.x.part").exists()
    with pytest.raises(UserError, match=r"output_dir: .* cannot be written to"):
        Folder(folder.path("rank/a")).prepare()


def test_a_read_only_folder_discards_writes(folder):
    discarding = Folder(folder.root, read_only=True)
    discarding.prepare()
    discarding.write_text("a.txt", "x")
    with discarding.atomic_folder("tune") as scratch:
        (scratch / "x").write_text("x")
    assert not folder.root.exists()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "nul\0", "x" * 300])
def test_names_outside_the_folder_are_refused(folder, name):
    with pytest.raises(UserError, match="no file of this folder"):
        folder.path(name)


def test_broken_lines_are_named(folder):
    folder.write_text("rows.jsonl", '{"a": 1}\n[1]\n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2: not an object"):
        folder.read_jsonl("rows.jsonl")
    folder.write_text("x.json", "{")
    with pytest.raises(UserError, match=r"x\.json: not valid JSON"):
        folder.read_json("x.json")
    assert folder.read_jsonl("missing.jsonl") == []
