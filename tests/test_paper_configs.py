"""The paper's experiments: data rebuilt from stand-ins, and every config run on a tiny model of its architecture."""

import gzip
import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from helpers.chat_tokenizers import bare_tokenizer, llama3_tokenizer, mistral_tokenizer
from sealtune.cli.arguments import load_config
from sealtune.core.config_io import build_config
from sealtune.evaluation.prompts import load_prompts
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage

FOLDER = Path(__file__).parents[1] / "configs/paper"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"max_position_embeddings": 4096}
GROUPED = SIZES | {"num_key_value_heads": 2}
FAMILIES = {
    "meta-llama/Meta-Llama-3-8B-Instruct": (LlamaForCausalLM, LlamaConfig, GROUPED, llama3_tokenizer),
    "ibm/merlinite-7b": (MistralForCausalLM, MistralConfig, GROUPED, mistral_tokenizer),
    "EleutherAI/pythia-2.8b": (GPTNeoXForCausalLM, GPTNeoXConfig, SIZES, bare_tokenizer),
}


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("build_data", FOLDER / "build_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stand_ins(backwards=False):
    """A ``load_dataset`` of rows written for the test, in the columns of the real sets."""
    orca = [
        {
            "conversations": [
                {"from": "system", "value": "Be brief.", "weight": None},
                {"from": "human", "value": f"What is {i} and {i}?", "weight": 0},
                {"from": "gpt", "value": f"It is {2 * i}.", "weight": 1},
            ][i % 2 :]
        }
        for i in range(40)
    ]
    orca += [orca[3], {"conversations": [{"from": "human", "value": "No answer?"}, {"from": "gpt", "value": " "}]}]
    red = [{"transcript": f"\n\nHuman: Do {i}\n\nAssistant: No.\n\nHuman: Do!\n\nAssistant:"} for i in range(8)]
    red.append({"transcript": "\n\nHuman: Only a question"})
    alpaca = [{"instruction": f"Name {i}", "input": "", "output": "Red"} for i in range(20)]
    open_orca = [{"id": i, "system_prompt": "", "question": f"Why {i}?", "response": "So."} for i in range(20)]
    sets = {"Open-Orca/SlimOrca": orca, "Anthropic/hh-rlhf": red, "yahma/alpaca-cleaned": alpaca}
    sets["Open-Orca/OpenOrca"] = open_orca

    def load(path, split, streaming, data_dir=None):
        assert (split, streaming) == ("train", True)
        assert data_dir == ("red-team-attempts" if path == "Anthropic/hh-rlhf" else None)
        return iter(sets[path][::-1] if backwards else sets[path])

    return load


FEW = {"harmless": 16, "unsafe": 4, "safe": 12, "prompts": 3}


def read(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_the_mixture_has_its_counts_and_labels_and_no_question_twice(recipe, tmp_path):
    recipe.redorca(tmp_path, stand_ins(), **FEW)
    rows, safe, prompts = (read(tmp_path / f"{name}.jsonl") for name in ("candidates", "safe", "prompts"))
    assert (len(rows), len(safe), len(prompts)) == (20, 12, 3)
    assert sum(row["unsafe"] for row in rows) == 4 and not any(row["unsafe"] for row in safe)
    assert {row["source"] for row in rows if row["unsafe"]} == {"red-team-attempts"}
    assert [row["unsafe"] for row in rows] != sorted((row["unsafe"] for row in rows), reverse=True)
    ids = [row["id"] for row in rows + safe + prompts]
    assert len(set(ids)) == len(ids) == 35
    first = next(row for row in rows if row["unsafe"])
    assert [turn["role"] for turn in first["messages"]] == ["user", "assistant"]  # up to the last answer
    assert any("Be brief.\n\nWhat is" in prompt["prompt"] for prompt in prompts)


def test_the_seed_decides_the_rows_and_the_order_on_the_hub_does_not(recipe, tmp_path):
    for name, options in {"a": {}, "b": {"seed": 42}, "c": {"seed": 1}}.items():
        recipe.redorca(tmp_path / name, stand_ins(backwards=name == "b"), **FEW, **options)
    first, again, other = ((tmp_path / name / "candidates.jsonl").read_text() for name in "abc")
    assert first == again != other


def test_too_few_rows_are_an_error(recipe, tmp_path):
    with pytest.raises(SystemExit, match="SlimOrca: 40 usable rows, 331 are needed"):
        recipe.redorca(tmp_path, stand_ins(), **FEW | {"safe": 312})
    assert not list(tmp_path.iterdir())


def test_the_counts_of_the_paper_are_the_defaults(recipe):
    assert recipe.redorca.__kwdefaults__ == {
        "seed": 42,
        "harmless": 89_600,
        "unsafe": 22_400,
        "safe": 112_000,
        "prompts": 500,
    }
    assert recipe.openorca.__kwdefaults__["candidates"] == recipe.openorca.__kwdefaults__["safe"] == 49_900


def test_every_experiment_has_a_config_and_every_value_has_a_source():
    assert [path.stem for path in CONFIGS] == ["alpaca-openorca", "llama3-8b", "merlinite-7b", "pythia-2.8b"]
    index = (FOLDER.parents[1] / "docs/paper_index.md").read_text(encoding="utf-8")
    section = index[index.index("## The paper's experiments") :]
    for path in CONFIGS:
        text = re.sub(r"#.*", "", path.read_text(encoding="utf-8"))
        # Words before a colon with a value, without blocks and the contents of lists.
        keys = set(re.findall(r"^ *([a-z_0-9]+):(?= *\S)", text, re.MULTILINE)) - {"title", "output_dir"}
        missing = {key for key in keys if not re.search(rf"[`.]{key}`", section)}
        assert not missing, (path.name, missing)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_runs_two_steps_on_a_tiny_model_of_its_architecture(path, recipe, tmp_path, monkeypatch):
    config = load_config([str(path)])
    monkeypatch.chdir(tmp_path)
    recipe.redorca(tmp_path / "data/redorca", stand_ins(), **FEW)
    recipe.openorca(tmp_path / "data/openorca", stand_ins(), candidates=6, safe=5, prompts=2)
    family, settings, sizes, make_tokenizer = FAMILIES[config.model_name_or_path]
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    family(settings(**sizes, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)).save_pretrained("model")
    tokenizer.save_pretrained("model")
    values = config.model_dump(mode="json") | {"model_name_or_path": "model", "dtype": "float32"}
    n = len(read(config.datasets[0].path))
    values["rank"] |= {
        "num_train_epochs": 2,
        "gradient_accumulation_steps": n,
    }  # one step per epoch; gamma is 0 in the first
    values["tune"] |= {"max_steps": 2, "gradient_accumulation_steps": 1}
    run = Run(build_config(values))
    for stage in ("rank", "select", "tune"):
        run_stage(run, stage)
    log = run.folder.read_jsonl("rank/log.jsonl")
    assert len(log) == 2 and len(run.folder.read_jsonl("tune/log.jsonl")) == 2
    kept = run.folder.read_jsonl("select/kept.jsonl")
    assert len(kept) == pytest.approx(config.select.keep_ratio * n, abs=1)
    adapter = run.folder.path("tune/adapter_config.json")
    assert adapter.exists() == config.tune.use_peft
    own = [prompts for prompts in config.evaluate.prompts if prompts.path]
    assert load_prompts(own).asked and not load_prompts(own).drops


def test_pythia_can_be_trained_with_adapters(recipe, tmp_path, monkeypatch):
    overrides = ["rank.use_peft=true", "tune.use_peft=true", "rank.method=seal"]
    config = load_config([str(FOLDER / "pythia-2.8b.yaml"), *overrides])
    assert config.rank.lora_target_modules == config.tune.lora_target_modules == ["query_key_value"]


def test_rows_are_streamed_by_datasets(recipe, tmp_path, monkeypatch):
    """The same files as the hub's, in folders named like its repositories, read as a stream."""
    import datasets

    plain = stand_ins()
    orca = tmp_path / "SlimOrca/oo-labeled_correct.gpt4.sharegpt.jsonl"
    red = tmp_path / "hh-rlhf/red-team-attempts/red_team_attempts.jsonl.gz"
    for path in (orca, red):
        path.parent.mkdir(parents=True)
    rows = plain("Open-Orca/SlimOrca", "train", True)
    orca.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with gzip.open(red, "wt") as file:
        rows = plain("Anthropic/hh-rlhf", "train", True, "red-team-attempts")
        file.writelines(json.dumps({**row, "tags": None, "rating": 4.0}) + "\n" for row in rows)
    original = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **o: original(str(tmp_path / Path(path).name), **o))
    recipe.redorca(tmp_path / "streamed", datasets.load_dataset, **FEW)
    recipe.redorca(tmp_path / "plain", plain, **FEW)
    for name in ("candidates", "safe", "prompts"):
        assert (tmp_path / f"streamed/{name}.jsonl").read_text() == (tmp_path / f"plain/{name}.jsonl").read_text()
    monkeypatch.setattr("sys.argv", ["build_data.py", "redorca", "--output", str(tmp_path / "full")])
    with pytest.raises(SystemExit, match="usable rows, 202,100 are needed"):
        recipe.main()
