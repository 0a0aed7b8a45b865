"""Tokenizers that name few tokens, or have several templates."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from helpers.chat_tokenizers import CHATML, bare_tokenizer, chatml_tokenizer
from helpers.tiny import tiny_model
from sealtune.core.config_io import build_config
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage

TEMPLATES = {"default": CHATML, "tool_use": CHATML + "{{ '' }}"}


@pytest.mark.parametrize("kind", ["no token named", "named templates"])
def test_rows_are_ranked_tuned_on_and_evaluated(project, tmp_path, kind):
    if kind == "no token named":
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare_tokenizer().backend_tokenizer)
        assert not tokenizer.special_tokens_map and tokenizer.chat_template is None
    else:
        names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        backend = chatml_tokenizer().backend_tokenizer
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=TEMPLATES, **names)
    tokenizer.save_pretrained(tmp_path / "model")
    tiny_model(vocab_size=len(tokenizer), eos_token_id=None).save_pretrained(tmp_path / "model")
    run = Run(build_config({**project, "model_name_or_path": str(tmp_path / "model")}))
    for stage in ("rank", "select", "tune", "evaluate"):
        run_stage(run, stage)
    assert (tmp_path / "out/tune/adapter_model.safetensors").is_file()
    assert (tmp_path / "out/evaluate/results.json").is_file()
