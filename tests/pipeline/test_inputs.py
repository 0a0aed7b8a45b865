"""Rows are read from their files once; a later stage maps them."""

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
    """The project, and a list that grows with every set of rows that is read."""
    read, load = [], inputs.load

    def counting(configs, *rest):
        read.append(configs[0].path)
        return load(configs, *rest)

    monkeypatch.setattr(inputs, "load", counting)
    return project, read


def rows(settings):
    return Run(build_config(settings)).material.rows


def test_a_later_stage_finds_the_rows(counted):
    settings, read = counted
    first, again = rows(settings), rows(settings)
    assert read == ["candidates.jsonl"]
    assert list(again.samples) == list(first.samples)
    assert again.digest == first.digest


@pytest.mark.parametrize("change", ["file", "settings", "about", "rows.arrow", "index.arrow", "gone"])
def test_what_no_longer_fits_is_read_anew(counted, change):
    settings, read = counted
    before = [sample.id for sample in rows(settings).samples]
    kept = Path("out/rows/candidates")
    if change == "file":
        write_jsonl(Path("candidates.jsonl"), made_rows(20, 4))
    elif change == "settings":
        settings["datasets"] = [{"path": "candidates.jsonl", "fraction": 0.5}]
    elif change == "about":
        (kept / "about.json").write_text("[]", encoding="utf-8")
    elif change == "gone":
        (kept / "index.arrow").unlink()
    else:
        content = (kept / change).read_bytes()
        (kept / change).unlink()  # the old one is still mapped
        (kept / change).write_bytes(content[: len(content) // 2])
    after = [sample.id for sample in rows(settings).samples]
    assert len(read) == 2
    assert (after == before) == (change not in ("file", "settings"))


def test_a_process_that_helps_leaves_no_files(counted, monkeypatch):
    settings, _ = counted
    monkeypatch.setattr(distributed, "is_main_process", lambda: False)
    found = rows(settings)
    assert len(found.samples) == 20
    assert not Path("out/rows").exists()
    assert [sample.row["note"] for sample in found.samples] == [{"kept": ["as", "is"]}] * 20


def test_a_helping_process_uses_what_the_first_one_left(counted):
    settings, read = counted
    rows(settings)
    helper = inputs.Material(build_config(settings), TokenCache(RunFolder("out", keeps=False)))
    assert len(helper.rows.samples) == 20
    assert read == ["candidates.jsonl"]
