import pytest

from helpers.families import family_model
from helpers.processes import pretend
from helpers.tiny import tiny_model
from sealtune.core.config_io import build_config
from sealtune.tuning.regimes import DataParallel, ShardedBase, ShardedModel, Zero3, choose_regime

FSDP = {"ACCELERATE_USE_FSDP": "true"}
ZERO2 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
ZERO3 = ZERO2 | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}


@pytest.mark.parametrize(
    ("processes", "variables", "use_peft", "expected"),
    [
        (1, {}, True, DataParallel),
        (1, FSDP, True, DataParallel),
        (2, {}, False, DataParallel),
        (2, ZERO2, True, DataParallel),
        (2, FSDP, True, ShardedBase),
        (2, FSDP, False, ShardedModel),
        (2, ZERO3, True, Zero3),
        (2, ZERO3, False, Zero3),
    ],
)
def test_launcher_and_config_determine_the_regime(monkeypatch, processes, variables, use_peft, expected):
    pretend(monkeypatch, processes)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = build_config({"model_name_or_path": "m", "tune": {"use_peft": use_peft}})
    regime = choose_regime(config)
    assert type(regime) is expected
    assert (regime.peft_config(tiny_model()) is not None) == (use_peft and expected is not ShardedBase)


def test_the_adapter_is_that_of_the_models_family():
    regime = choose_regime(build_config({"model_name_or_path": "m"}))
    assert regime.peft_config(family_model("gpt_neox")).target_modules == {"query_key_value"}
    assert regime.peft_config(tiny_model()).target_modules == {"q_proj", "v_proj"}
