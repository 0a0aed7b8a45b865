"""Uploads to a stand-in of the hub: what is planned is what arrives, and without --yes nothing is contacted."""

import io
import json

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load
from typer.testing import CliRunner

from helpers.hub_server import serving_hub
from helpers.rows import made_rows, write_jsonl
from sealtune.cli.main import app
from sealtune.core.config_io import build_config
from sealtune.pipeline import hub
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_folder):
    """The folder of a run that has tuned, evaluated and reported."""
    folder = tmp_path_factory.mktemp("finished")
    for name, count in {"rows": 10, "safe": 6, "held": 4}.items():
        write_jsonl(folder / f"{name}.jsonl", made_rows(count, count))
    settings = {
        "model_name_or_path": str(tiny_folder),
        "dtype": "float32",
        "datasets": [str(folder / "rows.jsonl")],
        "safe_datasets": [str(folder / "safe.jsonl")],
        "output_dir": str(folder / "run"),
        "max_length": 64,
        "rank": {"method": "random"},
        "tune": {"max_steps": 1, "guard": "off"},
        "evaluate": {"held_out_datasets": [str(folder / "held.jsonl")], "likelihood": False},
    }
    run = Run(build_config(settings))
    for stage in ("rank", "select", "tune", "evaluate", "report"):
        run_stage(run, stage)
    return run.folder.root


@pytest.fixture
def to(monkeypatch):
    """Points the hub's client at a server; a test without it would be offline."""
    from huggingface_hub import constants

    def point(server):
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_test")

    return point


def cli(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_rows_and_model_arrive_with_cards_that_carry_the_results(finished, to):
    with serving_hub() as server:
        to(server)
        outcome = cli("export", finished, "--to", "hf", "--push", "me/kept", "--yes")
        assert outcome.exit_code == 0, outcome.output
    assert server.repos.keys() == {("dataset", "me/kept"), ("model", "me/kept")}
    assert all(about["visibility"] == "private" for about in server.repos.values())
    assert server.tokens == {"Bearer hf_test"}
    rows, model = server.files["dataset", "me/kept"], server.files["model", "me/kept"]
    assert rows.keys() == {"README.md", "data/train-00000-of-00001.parquet"}
    kept = pq.read_table(io.BytesIO(rows["data/train-00000-of-00001.parquet"]))
    assert kept["id"].to_pylist() == json.loads((finished / "select/kept_ids.json").read_text("utf-8"))
    assert load(model["adapter_model.safetensors"]).keys()
    assert {"adapter_config.json", "tokenizer.json", "README.md"} <= model.keys()
    assert not any(name.endswith(".jsonl") for name in model)
    results = json.loads((finished / "results.json").read_text("utf-8"))["evaluation"]
    (held_out,) = [row["value"] for row in results if (row["set"], row["model"]) == ("held_out", "tuned")]
    for card in (rows["README.md"].decode(), model["README.md"].decode()):
        assert "| loss on held-out rows |" in card and f"{held_out:.3f}" in card
        assert str(finished.parent.parent) not in card  # no path of this machine
    assert "base_model" not in model["README.md"].decode().split("---")[1]  # a folder here, which the hub would refuse


def test_without_yes_the_plan_is_printed_and_nothing_is_contacted(finished, to):
    with serving_hub() as server:
        to(server)
        outcome = cli("export", finished, "--to", "hf", "--push", "me/kept")
        assert outcome.exit_code == 0, outcome.output
        assert server.paths == []
    assert "dataset me/kept: 2 files, " in outcome.output
    assert "model me/kept: " in outcome.output
    size = (finished / "tune/adapter_model.safetensors").stat().st_size
    assert f"  adapter_model.safetensors  {size / 1000:.1f} kB" in outcome.output
    assert "nothing was uploaded; add --yes" in outcome.output
    assert "a folder of this machine: who downloads it needs that model" in outcome.output


@pytest.mark.parametrize(
    ("status", "code", "message"), [(401, 2, "refuses the token (401)"), (500, 1, "the upload failed")]
)
def test_a_refusal_is_one_line(finished, to, status, code, message):
    with serving_hub(refuse=status) as server:
        to(server)
        outcome = cli("export", finished, "--to", "hf", "--push", "me/kept", "--yes")
    assert outcome.exit_code == code, outcome.output
    assert message in outcome.output and outcome.output.count("error:") == 1
    assert "hf_test" not in outcome.output


def test_a_changed_model_is_not_uploaded(finished):
    card = finished / "tune/README.md"
    text = card.read_text("utf-8")
    try:
        card.write_text("changed", encoding="utf-8")
        outcome = cli("export", finished, "--to", "hf", "--push", "me/kept")
    finally:
        card.write_text(text, encoding="utf-8")
    assert outcome.exit_code == 2
    assert "README.md: changed or missing since tune was run" in outcome.output


def test_sizes_are_short():
    assert [hub._bytes(n) for n in (0, 999, 1000, 2_500_000, 3e15)] == ["0 B", "999 B", "1.0 kB", "2.5 MB", "3000.0 TB"]
