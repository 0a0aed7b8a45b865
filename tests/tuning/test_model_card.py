import pytest

from sealtune.core.config_io import build_config
from sealtune.tuning.model_card import model_card
from sealtune.tuning.train import TuningResult

MANIFEST = {
    "sealtune": "1.2.3",
    "stages": {
        "rank": {"rows": 1000, "tokens": 5000, "seconds": 12.3},
        "select": {"rows": 800, "seconds": 0.4},
        "tune": {"seconds": 1},
    },
}


def card(result, **tune):
    values = {"model_name_or_path": "owner/name", "safe_datasets": ["safe.jsonl"], "max_length": 512, "tune": tune}
    return model_card(build_config(values), MANIFEST, 900, result)


def test_the_card_states_what_was_trained_and_not_what_was_configured():
    """Four processes, stopped by ``max_steps``: neither is in the config's epochs or batch size."""
    result = TuningResult(None, [], steps=7, epochs=0.5, batch_size=64)
    text = card(result, num_train_epochs=2, max_steps=7, per_device_train_batch_size=8, gradient_accumulation_steps=2)
    assert "| steps | 7 |\n| epochs | 0.5 |\n| rows per step (all processes) | 64 |" in text


def test_the_card_states_rows_and_stages():
    text = card(TuningResult(None, [], 1, 2.0, 8))
    assert "1,000 candidate rows" in text and "800 rows were kept" in text and "trained on 900 rows" in text
    assert "(safe.jsonl)" in text
    assert "| rank | 1000 | 5000 | 12 |\n| select | 800 |  | 0 |\n" in text
    assert "| tune |" not in text


@pytest.mark.parametrize(
    ("tune", "library", "trained"),
    [
        ({"lora_r": 4}, "peft", "LoRA of rank 4"),
        ({"lora_r": 4, "merge": True}, "transformers", "LoRA of rank 4"),
        ({"use_peft": False}, "transformers", "all weights"),
    ],
)
def test_the_card_states_the_kind_of_model(tune, library, trained):
    text = card(TuningResult(None, [], 1, 2.0, 8), **tune)
    assert f"library_name: {library}\n" in text
    assert f"| trained | {trained} |" in text
