"""Tokens are made once for all stages of a run, and anew when what they were made of changed."""

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
    """The project, and a list that grows with every set of rows that is tokenised."""
    made = []

    def count(work):
        def counting(samples, *rest):
            made.append(len(samples))
            return work(samples, *rest)

        monkeypatch.setattr(inputs, work.__name__, counting)

    count(inputs.encode)  # into memory
    count(inputs.encode_batches)  # into a file
    rows = [*made_rows(20, 1), {"id": "long", "prompt": "red " * 80, "response": "blue"}]
    write_jsonl(Path("candidates.jsonl"), rows)
    project["label_column"] = None
    return project, made


def candidates(settings):
    found = Run(build_config(settings)).inputs.load_candidates()
    return found.encoded, found.drops


def test_a_later_stage_finds_the_tokens(counted):
    settings, made = counted
    first, drops = candidates(settings)
    again, same_drops = candidates(settings)
    assert made == [21]
    for array in ("tokens", "mask", "bounds"):
        np.testing.assert_array_equal(getattr(first, array), getattr(again, array))
    assert (again.ids, again.source, [*same_drops]) == (first.ids, first.source, [*drops])
    assert [drop.reason for drop in drops] == ["too_long"]


@pytest.mark.parametrize("change", ["rows", "max_length", "broken", "cut", "faults"])
def test_what_no_longer_fits_is_made_anew(counted, change):
    settings, made = counted
    before = np.array(candidates(settings)[0].tokens)  # a copy: the file is cut
    if change == "rows":
        write_jsonl(Path("candidates.jsonl"), made_rows(20, 4))
    elif change == "max_length":
        settings["max_length"] = 40
    elif change == "broken":
        Path("out/tokens/candidates/about.json").write_text("[]", encoding="utf-8")
    elif change == "faults":  # a row that is not there
        path = Path("out/tokens/candidates/faults.arrow")
        with pa.ipc.new_file(str(path), cache.FAULTS) as file:
            file.write_batch(pa.record_batch([[21], ["too_long"], ["it is long"]], schema=cache.FAULTS))
    else:
        with Path("out/tokens/candidates/tokens.npy").open("r+b") as file:
            file.truncate(200)
    after, _ = candidates(settings)
    assert len(made) == 2
    if change in ("broken", "cut", "faults"):
        np.testing.assert_array_equal(before, after.tokens)


def test_another_tokenizer_or_template_makes_other_tokens(counted, tmp_path):
    settings, made = counted
    candidates(settings)
    own = shutil.copytree(settings["model_name_or_path"], tmp_path / "model")
    settings["model_name_or_path"] = str(own)
    candidates(settings)
    assert made == [21]  # the same rules under another name
    template = own / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8").replace("helpful", "curt"), encoding="utf-8")
    candidates(settings)
    assert made == [21, 21]


def test_tokens_that_cannot_be_kept_are_no_fault(counted, monkeypatch):
    def full(self, *args):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(TokenCache, "_write", full)
    settings, made = counted
    candidates(settings)
    candidates(settings)
    assert made == [21, 21]


def test_a_tokenizer_has_its_template_after_a_hit_too(counted, tmp_path):
    settings, _ = counted
    own = shutil.copytree(settings["model_name_or_path"], tmp_path / "model")
    (own / "chat_template.jinja").unlink()
    settings["model_name_or_path"] = str(own)
    candidates(settings)
    later = Run(build_config(settings))
    assert len(later.inputs.load_candidates().encoded) == 20
    assert later.inputs.load_tokenizer().chat_template
