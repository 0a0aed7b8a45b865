"""The estimate of a config, against figures worked out by hand and against the models themselves."""

import json

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from typer.testing import CliRunner

from helpers.rows import write_jsonl
from helpers.tiny import tiny_model
from sealtune.cli.dimensions import KNOWN, ModelDimensions, read_dimensions
from sealtune.cli.estimate import BANDWIDTH_UTILISATION, GPUS, estimate
from sealtune.cli.flops import trainable_parameters
from sealtune.cli.gpu_memory import OVERHEAD, activation_bytes
from sealtune.cli.main import app
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.models.adapters import lora_players

# Two layers with q 4x4, k and v 4x2, o 4x4, and gate, up and down 4x8: 144 weights per layer. Two embeddings of 10 x 4.
SMALL = {"num_hidden_layers": 2, "hidden_size": 4, "intermediate_size": 8, "num_attention_heads": 2}
SMALL |= {"num_key_value_heads": 1, "vocab_size": 10, "tie_word_embeddings": False}


def small(tmp_path, **settings):
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "x" * 42, "response": "y"}] * 10)
    values = {
        "model_name_or_path": str(tmp_path),
        "dtype": "bfloat16",
        "datasets": [str(tmp_path / "rows.jsonl")],
        "max_length": 8,
        "rank": {"method": "seal", "lora_r": 1, "per_device_train_batch_size": 3, "num_train_epochs": 3},
        "tune": {"lora_r": 1, "per_device_train_batch_size": 3, "num_train_epochs": 2},
        "evaluate": {"max_prompt_length": 30, "max_new_tokens": 10, "batch_size": 4},
    }
    return build_config(values | settings)


def test_all_figures_of_a_small_model_match_a_calculation_by_hand(tmp_path):
    config = small(tmp_path)
    result = estimate(config)
    assert result.model.linear == 2 * (16 + 8 + 8 + 16 + 32 + 32 + 32) == 288
    assert result.model.parameters == 288 + 80 == 368
    trainable = 2 * 1 * ((4 + 4) + (4 + 2))  # layers x r x (inputs + outputs) of q and v
    # Per token and layer: two hidden states in float32; q, k, v and the output of all heads, three intermediate; q, v.
    layer = 2 * 4 * 4 + 2 * (4 * 4 + 3 * 8) + 4 * (4 + 4)
    temporary = 12 * (3 * 8) * 10  # logits: more than the 24 * (8 * 4 + 2 * 3 * 8) of the current layer
    training = 368 * 2 + trainable * 16 + (3 * 8) * 2 * layer + temporary + OVERHEAD
    assert result.gpu["rank"] == result.gpu["tune"] == training
    assert result.gpu["evaluate"] == 368 * 2 + 2 * 2 * 1 * 2 * 2 * 4 * (30 + 10) + OVERHEAD
    size = (tmp_path / "rows.jsonl").stat().st_size
    rows = 2 * size + 70 * (10 + 10), 5 * 8 * (10 + 10), size  # as many safe rows as candidates are assumed
    assert list(result.disk.values()) == [0, 12 * 3 * trainable, 4 * trainable, *rows]  # the model is a local folder
    # Ten rows cut to 8 tokens; 288 weights, 28 of adapters, 40 of the output layer; attention 4 x length x layers x 4.
    attention = 4 * 8 * 2 * 4
    forward, backward = 2 * (288 + 28) + attention, 2 * 288 + 4 * 28 + 2 * attention
    head = 2 * 40
    one, both = forward + 0.6 * head, forward + backward + 2 * 0.6 * head
    rank = 3 * both + one + 2 * both  # safe rows; gamma 0; gamma > 0
    speed = GPUS["H100"].speed * 3600
    assert result.hours["rank"] == pytest.approx(10 * 8 * rank / speed)
    assert result.hours["tune"] == pytest.approx(0.8 * 10 * 8 * 2 * (forward + backward + 2 * head) / speed)
    assert result.hours["evaluate"] == 0  # no prompts


def test_settings_change_the_figures(tmp_path):
    default = estimate(small(tmp_path))
    rank = small(tmp_path).rank.model_dump()
    two = estimate(small(tmp_path, rank=rank | {"algorithm": 1}))
    assert two.gpu["rank"] - default.gpu["rank"] == 16 * 28
    assert two.hours["rank"] > default.hours["rank"]
    full = estimate(small(tmp_path, tune={"use_peft": False, "per_device_train_batch_size": 3}))
    inputs = 24 * 2 * (2 * (5 * 4 + 8) + 8 * 4 - 4 * (4 + 4))  # of all matrices and norms, not only q and v
    assert full.gpu["tune"] - default.gpu["tune"] == 20 * 368 - (2 * 368 + 16 * 28) + inputs
    assert full.disk["the tuned model"] == 368 * 2
    saving = estimate(small(tmp_path, rank=rank | {"gradient_checkpointing": True}))
    assert saving.gpu["rank"] < default.gpu["rank"] and saving.hours["rank"] > default.hours["rank"]
    assert estimate(small(tmp_path, rank={"method": "dsir"})).hours["rank"] == 0
    asked = {"prompts": ["xstest", {"path": "advbench", "limit": 20}], "base": False, "batch_size": 47}
    answers = estimate(small(tmp_path, evaluate=asked | {"max_new_tokens": 7})).hours["evaluate"]
    assert answers == pytest.approx(
        10 * 7 * 368 * 2 / (BANDWIDTH_UTILISATION * GPUS["H100"].bandwidth) / 3600
    )  # 450 + 20 prompts make ten batches
    four = estimate(small(tmp_path, load_in_4bit=True))
    assert four.gpu["rank"] - default.gpu["rank"] == pytest.approx(
        288 * (0.52 - 2) + 32 * 2, abs=1
    )  # one matrix is dequantised


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8.030),
        ("ibm/merlinite-7b", 7.242),
        ("EleutherAI/pythia-2.8b", 2.775),
        ("smollm2-135m-instruct", 0.1345),
    ],
)
def test_known_models_have_the_published_number_of_parameters(name, billions):
    assert KNOWN[name].parameters == pytest.approx(billions * 1e9, rel=1e-3)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"])
def test_dimensions_and_adapters_match_a_real_model(tiny_folder, targets):
    config = build_config({"model_name_or_path": str(tiny_folder), "rank": {"lora_target_modules": targets}})
    model = tiny_model(vocab_size=377)
    dimensions = read_dimensions(config)
    assert dimensions.parameters == sum(p.numel() for n, p in model.named_parameters() if "norm" not in n)
    player = lora_players(model, config.rank, ["theta"], 0)["theta"]
    assert trainable_parameters(dimensions, config.rank) == sum(p.numel() for p in player.parameters)


def test_dimensions_and_adapters_match_gpt_neox(tmp_path):
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, vocab_size=300))
    model.config.save_pretrained(tmp_path)
    block = {"lora_target_modules": ["query_key_value"]}
    config = build_config({"model_name_or_path": str(tmp_path), "rank": block})
    dimensions = read_dimensions(config)
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2)
    assert dimensions.parameters == matrices
    player = lora_players(model, config.rank, ["theta"], 0)["theta"]
    assert trainable_parameters(dimensions, config.rank) == sum(p.numel() for p in player.parameters)


def test_activations_are_close_to_what_autograd_saves():
    sizes = {"hidden_size": 128, "intermediate_size": 448, "num_hidden_layers": 8, "num_attention_heads": 8}
    model = tiny_model(**sizes, head_dim=16).to(torch.bfloat16)
    block = {"per_device_train_batch_size": 2, "lora_r": 2}
    config = build_config({"model_name_or_path": "m", "dtype": "bfloat16", "max_length": 128, "rank": block})
    player = lora_players(model, config.rank, ["theta"], 0)["theta"]
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # kept alive, so that no address is reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        player.model.hidden_states(torch.randint(3, 300, (2, 128)))
    found = sum(size for size, _ in kept.values())
    assert (
        0.7
        < found / activation_bytes(ModelDimensions(8, 128, 448, 8, 2, 300, 16, tied=True), config, config.rank)
        < 1.05
    )


def test_the_command_prints_its_assumptions(tmp_path):
    (tmp_path / "run.yaml").write_text("model_name_or_path: EleutherAI/pythia-2.8b\ndatasets: [not/there.jsonl]\n")
    result = CliRunner().invoke(app, ["env", str(tmp_path / "run.yaml"), "--rows", "2000"])
    assert result.exit_code == 0, result.output
    assert "estimate, not a measurement; 2.77 billion parameters" in result.output
    assert "2,000 candidates (as given), 400 tokens per row" in result.output and "TFLOP/s" in result.output
    result = CliRunner().invoke(app, ["env", str(tmp_path / "run.yaml")])
    assert "10,000 candidates (files missing; give --rows)" in result.output
    result = CliRunner().invoke(app, ["env", str(tmp_path / "run.yaml"), "model_name_or_path=some/model"])
    assert result.exit_code == 2 and "hf download some/model config.json" in result.output


def test_a_config_json_without_dimensions_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    with pytest.raises(UserError, match="does not state the dimensions of a decoder"):
        estimate(build_config({"model_name_or_path": str(tmp_path)}))


def test_files_are_counted_wherever_they_are(tmp_path, monkeypatch):
    folder = tmp_path / "home" / "shards"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        write_jsonl(folder / f"{name}.jsonl", [{"prompt": "p", "response": "y" * 200}] * 5)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    size = sum(path.stat().st_size for path in folder.iterdir())
    for place in (str(folder), f"{folder}/*.jsonl", "~/shards", "~/shards/[ab].jsonl"):
        result = estimate(small(tmp_path, datasets=[place]))
        assert result.notes[0].startswith("10 candidates (counted)"), place
        assert result.disk["rows kept and dropped"] == size


def test_compressed_files_have_a_size_and_no_number_of_rows(tmp_path):
    import gzip

    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "p", "response": "r"}\n' * 10))
    result = estimate(small(tmp_path, datasets=[str(tmp_path / "rows.jsonl.gz")]))
    assert "files missing" in result.notes[0]
    assert result.disk["rows kept and dropped"] == (tmp_path / "rows.jsonl.gz").stat().st_size


def test_rows_are_not_longer_than_the_model_allows(tmp_path):
    config = small(tmp_path, max_length=100)
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {"max_position_embeddings": 8}))
    result = estimate(config)
    assert "max_length 8, the positions of the model" in result.notes
    assert result.gpu == estimate(small(tmp_path)).gpu


@pytest.mark.parametrize(
    ("stated", "size"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 0.52),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 1.04),
        ({"quant_method": "gptq", "bits": 4}, 0.52),
        ({"quant_method": "fp8"}, 1.04),
        ({"quant_method": "other"}, 2),
    ],
)
def test_quantised_weights_have_their_own_size(tmp_path, stated, size):
    default = estimate(small(tmp_path)).gpu["evaluate"]
    config = small(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {"quantization_config": stated}))
    assert default - estimate(config).gpu["evaluate"] == pytest.approx(288 * (2 - size), abs=1e-3)
