"""Rows are loaded from their files once; later stages memory-map them."""

from pathlib import Path

import pytest

from helpers.rows import made_rows, write_jsonl
from sealtune.core import distributed
from sealtune.core.config_io import build_config
from sealtune.data.cache import TokenCache
from sealtune.pipeline import inputs
from sealtune.pipeline.folder import RunFolder
from sealtune.pipeline.run import Run


@pytest.fixture
def counted(project, monkeypatch):
    """The project, and a list of the data sets that were loaded."""
    read, load = [], inputs.load

    def counting(configs, *rest):
        read.append(configs[0].path)
        return load(configs, *rest)

    monkeypatch.setattr(inputs, "load", counting)
    return project, read


def rows(settings):
    return Run(build_config(settings)).inputs.load_rows()


def test_a_later_stage_reuses_the_rows(counted):
    settings, read = counted
    first, again = rows(settings), rows(settings)
    assert read == ["candidates.jsonl"]
    assert list(again.samples) == list(first.samples)
    assert again.digest == first.digest


@pytest.mark.parametrize("change", ["file", "settings", "about", "rows.arrow", "index.arrow", "gone"])
def test_outdated_or_damaged_rows_are_loaded_again(counted, change):
    settings, read = counted
    before = [sample.id for sample in rows(settings).samples]
    kept = Path("out/rows/candidates")
    if change == "file":
        write_jsonl(Path("candidates.jsonl"), made_rows(20, 4))
    elif change == "settings":
        settings["datasets"] = [{"path": "candidates.jsonl", "fraction": 0.5}]
    elif change == "about":
        (kept / "key.json").write_text("[]", encoding="utf-8")
    elif change == "gone":
        (kept / "index.arrow").unlink()
    else:
        content = (kept / change).read_bytes()
        (kept / change).unlink()  # the old file is still mapped
        (kept / change).write_bytes(content[: len(content) // 2])
    after = [sample.id for sample in rows(settings).samples]
    assert len(read) == 2
    assert (after == before) == (change not in ("file", "settings"))


def test_only_the_main_process_writes_files(counted, monkeypatch):
    settings, _ = counted
    monkeypatch.setattr(distributed, "is_main_process", lambda: False)
    found = rows(settings)
    assert len(found.samples) == 20
    assert not Path("out/rows").exists()
    assert [sample.row["note"] for sample in found.samples] == [{"kept": ["as", "is"]}] * 20


def test_other_processes_reuse_the_rows_of_the_main_process(counted):
    settings, read = counted
    rows(settings)
    helper = inputs.RunInputs(build_config(settings), TokenCache(RunFolder("out", read_only=True)))
    assert len(helper.load_rows().samples) == 20
    assert read == ["candidates.jsonl"]
