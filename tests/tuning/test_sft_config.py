import pytest

from helpers.processes import pretend
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.tuning.sft_config import effective_batch_size, keep_batch_size, sft_config


def config_with(**tune):
    return build_config({"model_name_or_path": "m", "dtype": "float32", "tune": tune})


@pytest.mark.parametrize(("processes", "batch_size"), [(1, 6), (4, 24)])
def test_the_effective_batch_size_counts_all_processes(monkeypatch, processes, batch_size):
    pretend(monkeypatch, processes)
    config = config_with(per_device_train_batch_size=2, gradient_accumulation_steps=3)
    assert effective_batch_size(config.tune) == batch_size


@pytest.mark.parametrize(
    ("rows", "processes", "accumulation"), [(32, 2, 2), (32, 1, 4), (8, 1, 1), (24, 2, None), (0, 1, None)]
)
def test_the_effective_batch_size_of_a_checkpoint_is_kept(monkeypatch, rows, processes, accumulation):
    pretend(monkeypatch, processes)
    config = config_with(per_device_train_batch_size=8)
    if accumulation is None:
        with pytest.raises(
            UserError, match=f"{rows} rows per step, which is not a multiple of {processes} processes x 8"
        ):
            keep_batch_size(config, rows)
    else:
        assert keep_batch_size(config, rows).tune.gradient_accumulation_steps == accumulation


@pytest.mark.parametrize(("changes", "warmup"), [({}, 5), ({"max_steps": 10}, 2), ({"num_train_epochs": 1}, 2)])
def test_warmup_is_a_share_of_all_steps(tmp_path, changes, warmup):
    config = config_with(**({"num_train_epochs": 2, "warmup_ratio": 0.2, "per_device_train_batch_size": 8} | changes))
    assert sft_config(config, str(tmp_path), rows=90).warmup_steps == warmup


def test_a_setting_that_the_trainer_rejects_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"tune: .*no_such_schedule"):
        sft_config(config_with(lr_scheduler_type="no_such_schedule"), str(tmp_path), rows=8)
