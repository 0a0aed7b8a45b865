from types import SimpleNamespace

from helpers.tiny import random_rows
from sealtune.core.config_io import build_config
from sealtune.tuning import dataset
from sealtune.tuning.dataset import RecordingCollator, to_dataset


def test_labels_are_the_response_tokens(monkeypatch):
    monkeypatch.setattr(dataset, "BLOCK_ROWS", 3)
    rows = random_rows(7)
    found = to_dataset(rows)
    assert found["row"][:] == list(range(7))
    for i, example in enumerate(found):
        tokens, mask = rows.row(i)
        assert example["input_ids"] == tokens.tolist()
        assert example["labels"] == [token if kept else -100 for token, kept in zip(tokens.tolist(), mask, strict=True)]


def test_the_collator_records_the_rows_since_the_last_log_line():
    rows, tune = random_rows(8), {"logging_steps": 1, "gradient_accumulation_steps": 1}
    settings = build_config({"model_name_or_path": "m", "tune": tune}).tune
    collator = RecordingCollator(SimpleNamespace(pad_token_id=0), rows, settings)
    examples = list(to_dataset(rows))
    for start in (0, 2, 4):
        batch = collator(examples[start : start + 2])
    assert set(batch) >= {"input_ids", "labels"} and "row" not in batch
    assert collator.recent_ids() == ["row-002", "row-003", "row-004", "row-005"]
