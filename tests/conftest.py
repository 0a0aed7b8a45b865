"""One thread per test process: tiny models run faster, and results are reproducible to the bit."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

from helpers.few_prompts import ship_few_prompts
from helpers.rows import made_rows, write_jsonl
from sealtune.cli.progress import show_log


@pytest.fixture(scope="session", autouse=True)
def few_prompts():
    """Every evaluation asks the prompts that are shipped: fewer of them where they are not what is tested."""
    ship_few_prompts()


@pytest.fixture(autouse=True)
def log_on_stderr():
    """Print the log to stderr like the command line, so that tests can read it with ``capsys``."""
    show_log()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A folder with a two-layer model and a ChatML tokenizer."""
    from helpers.chat_tokenizers import chatml_tokenizer
    from helpers.tiny import tiny_model

    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = chatml_tokenizer()
    tiny_model(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def project(tmp_path, tiny_folder, monkeypatch):
    """Change into a folder with all files that a run needs; returns the config as a dictionary."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "candidates.jsonl", made_rows(20, 1, note={"kept": ["as", "is"]}))
    write_jsonl(tmp_path / "safe.jsonl", made_rows(6, 2))
    write_jsonl(tmp_path / "held.jsonl", made_rows(4, 3))
    write_jsonl(tmp_path / "ask.jsonl", [{"prompt": "red or blue"}, {"prompt": "a quick list"}])
    return {
        "model_name_or_path": str(tiny_folder),
        "dtype": "float32",
        "datasets": ["candidates.jsonl"],
        "safe_datasets": ["safe.jsonl"],
        "label_column": "unsafe",
        "output_dir": "out",
        "max_length": 64,
        "rank": {"method": "seal", "num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 0.01},
        "tune": {"num_train_epochs": 1, "learning_rate": 0.01},
        "evaluate": {
            "prompts": [
                {"path": "ask.jsonl", "kind": "harmful"},
                {"path": "ask.jsonl", "kind": "harmless", "name": "ok"},
            ],
            "held_out_datasets": [{"path": "held.jsonl"}],
            "max_new_tokens": 4,
        },
    }
