"""Tensors that outgrow memory are stored in a scratch file; nothing else changes."""

import errno
import os
from pathlib import Path

import pytest
import torch

from helpers.tiny import random_rows, tiny_model
from sealtune.core.config_io import build_config
from sealtune.ranking import memmap, methods
from sealtune.ranking.job import Job


def rank():
    settings = {"method": "probe", "learning_rate": 0.01, "per_device_train_batch_size": 4}
    config = build_config({"model_name_or_path": "m", "dtype": "float32", "rank": settings})
    return methods.rank(Job(random_rows(14, 1), random_rows(6, 2, "safe"), config, lambda full: tiny_model()))


def test_small_tensors_stay_in_memory(monkeypatch):
    monkeypatch.setattr("os.posix_fallocate", lambda *given: pytest.fail("a file was made"))
    assert memmap.empty(4, 2, 8).shape == (4, 2, 8)
    assert memmap.empty(0).shape == (0,)


def test_large_tensors_are_stored_in_a_file_that_disappears_with_them(tmp_path, monkeypatch):
    monkeypatch.setattr(memmap, "MAX_BYTES", 100)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    numbers = memmap.empty(5, 2, 3)
    numbers.copy_(torch.arange(30.0).view(5, 2, 3))
    assert not memmap.fits_in_memory(5, 2, 3)
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    assert numbers[4].tolist() == [[24, 25, 26], [27, 28, 29]]
    assert numbers.flatten(1).data_ptr() == numbers.data_ptr()
    del numbers
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert not list(tmp_path.iterdir())


def test_scores_are_the_same(monkeypatch):
    expected = rank()
    monkeypatch.setattr(memmap, "MAX_BYTES", 0)
    found = rank()
    assert found.score.tolist() == expected.score.tolist()
    assert found.standard_error.tolist() == expected.standard_error.tolist()


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(memmap, "MAX_BYTES", 0)
    monkeypatch.setattr("os.posix_fallocate", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(OSError, match="No space left") as caught:
        memmap.empty(3)
    assert caught.value.filename == str(tmp_path)
    assert not list(tmp_path.iterdir())
