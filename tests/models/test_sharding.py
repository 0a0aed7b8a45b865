import json

import pytest

from helpers.processes import pretend
from sealtune.models import sharding


@pytest.mark.parametrize("stage", [2, 3, None])
def test_the_zero_stage_is_read_from_deepspeeds_own_file_too(tmp_path, monkeypatch, stage):
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": stage}} if stage else {}))
    pretend(monkeypatch, 2)
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert sharding.shards_base() == sharding.uses_zero3() == (stage == 3)
    assert not sharding.uses_fsdp()


def test_one_process_never_shards(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert not sharding.shards_base()


def test_the_request_for_fsdp_is_hidden_from_accelerate_and_restored(monkeypatch):
    pretend(monkeypatch, 2)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with sharding.without_accelerate_fsdp():
        assert not sharding.uses_fsdp()
    assert sharding.uses_fsdp()
