"""Rows are tokenized once for all stages of a run, and again if anything that the tokens depend on has changed."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from helpers.rows import made_rows, write_jsonl
from sealtune.core.config_io import build_config
from sealtune.data import cache
from sealtune.data.cache import TokenCache
from sealtune.pipeline import inputs
from sealtune.pipeline.run import Run


@pytest.fixture
def counted(project, monkeypatch):
    """The project, and a list with the size of each set of rows that is tokenized."""
    sizes = []

    encode_batches = inputs.encode_batches  # into memory or a file

    def counting(samples, *rest):
        sizes.append(len(samples))
        return encode_batches(samples, *rest)

    monkeypatch.setattr(inputs, "encode_batches", counting)
    rows = [*made_rows(20, 1), {"id": "long", "prompt": "red " * 80, "response": "blue"}]
    write_jsonl(Path("candidates.jsonl"), rows)
    project["label_column"] = None
    return project, sizes


def candidates(settings):
    found = Run(build_config(settings)).inputs.load_candidates()
    return found.encoded, found.drops


def test_a_later_stage_reuses_the_tokens(counted):
    settings, sizes = counted
    first, drops = candidates(settings)
    again, same_drops = candidates(settings)
    assert sizes == [21]
    for array in ("tokens", "mask", "bounds"):
        np.testing.assert_array_equal(getattr(first, array), getattr(again, array))
    assert (again.ids, again.source, [*same_drops]) == (first.ids, first.source, [*drops])
    assert [drop.reason for drop in drops] == ["too_long"]


@pytest.mark.parametrize("change", ["rows", "max_length", "damaged", "truncated", "drops"])
def test_outdated_or_damaged_tokens_are_made_again(counted, change):
    settings, sizes = counted
    before = np.array(candidates(settings)[0].tokens)  # a copy: the file is truncated
    if change == "rows":
        write_jsonl(Path("candidates.jsonl"), made_rows(20, 4))
    elif change == "max_length":
        settings["max_length"] = 40
    elif change == "damaged":
        Path("out/tokens/candidates/key.json").write_text("[]", encoding="utf-8")
    elif change == "drops":  # a row that does not exist
        path = Path("out/tokens/candidates/drops.arrow")
        with pa.ipc.new_file(str(path), cache.DROPS) as file:
            file.write_batch(pa.record_batch([[21], ["too_long"], ["it is long"]], schema=cache.DROPS))
    else:
        with Path("out/tokens/candidates/tokens.npy").open("r+b") as file:
            file.truncate(200)
    after, _ = candidates(settings)
    assert len(sizes) == 2
    if change in ("damaged", "truncated", "drops"):
        np.testing.assert_array_equal(before, after.tokens)


def test_tokens_depend_on_the_tokenizer_and_its_template(counted, tmp_path):
    settings, sizes = counted
    candidates(settings)
    own = shutil.copytree(settings["model_name_or_path"], tmp_path / "model")
    settings["model_name_or_path"] = str(own)
    candidates(settings)
    assert sizes == [21]  # the same tokenizer in another folder
    template = own / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8").replace("helpful", "curt"), encoding="utf-8")
    candidates(settings)
    assert sizes == [21, 21]


def test_tokens_that_cannot_be_cached_are_made_in_memory(counted, monkeypatch):
    def full(self, *args):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(TokenCache, "_write", full)
    settings, sizes = counted
    candidates(settings)
    candidates(settings)
    assert sizes == [21, 21]


def test_the_tokenizer_has_a_template_after_a_cache_hit_too(counted, tmp_path):
    settings, _ = counted
    own = shutil.copytree(settings["model_name_or_path"], tmp_path / "model")
    (own / "chat_template.jinja").unlink()
    settings["model_name_or_path"] = str(own)
    candidates(settings)
    later = Run(build_config(settings))
    assert len(later.inputs.load_candidates().encoded) == 20
    assert later.inputs.load_tokenizer().chat_template
