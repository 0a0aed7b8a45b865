import pytest

from helpers.processes import pretend
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.models import load

FSDP = {"ACCELERATE_USE_FSDP": "true"}
ZERO3 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}


def config_for(model, **changes):
    return build_config({"model_name_or_path": str(model), **changes})


@pytest.mark.parametrize("name", ["./nothing", "/no/where", "a/b/c", "model.gguf"])
def test_a_path_that_does_not_exist_is_a_user_error(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"model_name_or_path: {name} does not exist; give a folder"):
        load.resolve_model(name)


def test_anything_else_is_a_hub_id(tmp_path):
    assert load.resolve_model("owner/name") == "owner/name"
    assert load.resolve_model(str(tmp_path)) == str(tmp_path)


def test_a_packaged_model_is_published_under_its_hub_id():
    assert load.public_name(config_for("smollm2-135m-instruct")) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert load.public_name(config_for("owner/name")) == "owner/name"


def test_the_fingerprint_of_a_folder_changes_with_the_ends_of_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "FINGERPRINT_BYTES", 2)
    weights = tmp_path / "model.safetensors"
    found = []
    for content in (b"abcdef", b"abXXef", b"Xbcdef", b"abcdeX", b"abcdefg"):
        weights.write_bytes(content)
        found.append(load.model_fingerprint(config_for(tmp_path)))
    assert found[0] == found[1]
    assert len(set(found)) == 4


def test_the_fingerprint_of_a_hub_model_is_its_revision():
    assert load.model_fingerprint(config_for("owner/name")) == "owner/name@main"
    assert load.model_fingerprint(config_for("owner/name", model_revision="v2")) == "owner/name@v2"


@pytest.mark.parametrize("variables", [FSDP, ZERO3])
def test_a_four_bit_base_cannot_be_sharded(variables, monkeypatch):
    pretend(monkeypatch, 2)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="cannot be sharded"):
        load.load_model(config_for("m", load_in_4bit=True, dtype="float32"))
