"""One thread a test process: the tiny models run faster so, and results repeat to the bit."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import json
import random

import pytest

WORDS = ["red", "green", "blue", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "sum", "answer", "list"]


def made_rows(n, seed, **extra):
    """Rows of a few common words; every fifth is labelled unsafe."""
    chance = random.Random(seed)
    for i in range(n):
        prompt, response = (" ".join(chance.choices(WORDS, k=k)) for k in (4, chance.randint(3, 9)))
        yield {"id": f"{seed}-{i}", "prompt": prompt, "response": response, "unsafe": int(i % 5 == 0), **extra}


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def forge_checkpoint(folder, name, change):
    """Change one tensor of a checkpoint, or take it out where ``change`` is None, so that the hash fits."""
    from safetensors.torch import load_file, save_file

    from sealtune.checkpoints import seal
    from sealtune.store import hash_file

    state = load_file(folder / "state.safetensors")
    found = state.pop(name)
    save_file(state | ({name: change(found).contiguous()} if change else {}), folder / "state.safetensors")
    about = json.loads((folder / "checkpoint.json").read_text())
    about["sha256"] = hash_file(folder / "state.safetensors")
    (folder / "checkpoint.json").write_text(json.dumps(seal(about)))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A two-layer model with a ChatML tokenizer, saved as a user would have it."""
    from tiny import tiny_model
    from tokenizers_for_tests import chatml_tokenizer

    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = chatml_tokenizer()
    tiny_model(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def project(tmp_path, tiny_folder, monkeypatch):
    """A folder with everything that a run needs, entered; returns the config as plain values."""
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
