"""The stages end to end, on a model of two layers."""

import json
import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors import safe_open

from helpers.checkpoints import forge_checkpoint, rename_in_checkpoint
from helpers.rows import made_rows, write_jsonl
from sealtune.core.config_io import build_config
from sealtune.core.errors import RunError, StoppedError, UserError
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage
from sealtune.pipeline.stages import STAGES


def run(values, *stages, **changes):
    job = Run(build_config({**values, **changes}))
    for stage in stages or STAGES:
        run_stage(job, stage)
    return job


def scores(folder="out"):
    return pq.read_table(f"{folder}/rank/scores.parquet").to_pydict()


def read(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def finished(project):
    run(project)
    return project


def test_a_run_writes_all_files_and_they_agree(finished):
    table = scores()
    assert set(table) == {
        "id",
        "row",
        "source",
        "score",
        "weight",
        "loss",
        "gap",
        "visits",
        "standard_error",
        "probe_logit",
    }
    assert table["row"] == list(range(20))
    assert table["id"] == [row["id"] for row in made_rows(20, 1)]
    assert table["visits"] == [2] * 20
    assert table["source"] == ["candidates"] * 20

    kept, dropped = read("out/select/kept.jsonl"), read("out/select/dropped.jsonl")
    original = {row["id"]: row for row in read("candidates.jsonl")}
    assert len(kept) == 16
    assert all(row == original[row["id"]] for row in kept)
    assert [r["id"] for r in kept] == [i for i in original if i in {r["id"] for r in kept}]
    assert {r["sealtune"]["rank"] for r in dropped} == {20, 19, 18, 17}
    assert [r["id"] for r in dropped] == [i for i in original if i in {r["id"] for r in dropped}]
    lowest = sorted(zip(table["score"], table["id"], strict=True))[:4]
    assert {r["id"] for r in dropped} == {row_id for _, row_id in lowest}

    with safe_open("out/tune/adapter_model.safetensors", "pt") as adapter:
        assert len(adapter.keys()) == 2 * 2 * 2
    assert "16 rows were kept" in Path("out/tune/README.md").read_text()
    assert Path("out/tune/tokenizer.json").exists()
    assert len(read("out/evaluate/responses.jsonl")) == len(read("out/evaluate/verdicts.jsonl")) == 2 * 4

    results = json.loads(Path("out/results.json").read_text())
    assert results["rows"] == {"ranked": 20, "unusable": 0, "kept": 16, "dropped": 4}
    assert results["ranking"]["unsafe_rows"] == 4
    lost = sum(original[r["id"]]["unsafe"] for r in dropped)
    assert results["ranking"]["unsafe_rows_dropped"] == lost
    measures = {(r["model"], r["set"], r["measure"]) for r in results["evaluation"]}
    assert {("base", "safe", "loss"), ("tuned", "held_out", "loss"), ("tuned", "all", "over_refusal")} <= measures
    assert "<html" in Path("out/report.html").read_text()

    manifest = json.loads(Path("out/manifest.json").read_text())
    assert set(manifest["stages"]) == set(STAGES)
    for entry in manifest["stages"].values():
        assert entry["seconds"] > 0
        assert entry["peak_memory_bytes"] > 1e6
        assert all(Path("out", name).exists() for name in entry["outputs"])
    assert manifest["config"]["rank"]["num_train_epochs"] == 2
    assert not list(Path("out").rglob("*.part"))
    assert not [p for p in Path("out").rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".pth")]


def test_tuning_lowers_the_training_loss(project):
    project["evaluate"]["held_out_datasets"] = [{"path": "candidates.jsonl"}]
    run(project, tune={"num_train_epochs": 8, "learning_rate": 0.03, "lora_target_modules": "all-linear"})
    table = json.loads(Path("out/evaluate/results.json").read_text())
    loss = {r["model"]: r["value"] for r in table if r["set"] == "held_out"}
    assert loss["tuned"] < loss["base"] - 0.1


def test_a_stage_is_skipped_until_something_it_depends_on_changes(finished, capsys):
    def skipped(**changes):
        capsys.readouterr()
        run(finished, **changes)
        lines = capsys.readouterr().err.splitlines()
        return [line.split(":")[0] for line in lines if "skipped" in line]

    assert skipped() == list(STAGES)
    assert skipped(select={"keep_ratio": 0.5}) == ["rank"]
    assert skipped(select={"keep_ratio": 0.5}, label_column=None) == ["rank", "select", "tune", "evaluate"]
    write_jsonl(Path("candidates.jsonl"), made_rows(21, 1))
    assert skipped() == []


def test_a_later_stage_needs_only_the_folder(finished):
    from sealtune.cli.arguments import load_config

    config = load_config([], out="out", keep=0.5)
    run_stage(Run(config), "select")
    assert len(read("out/select/kept.jsonl")) == 10


def test_mix_datasets_are_trained_on_and_stored_separately(project):
    write_jsonl(Path("extra.jsonl"), [{"instruction": "red?", "input": "", "output": "green fox"}] * 3)
    run(project, "rank", "select", "tune", select={"mix_datasets": [{"path": "extra.jsonl"}]})
    assert len(read("out/select/kept.jsonl")) == 16
    assert read("out/select/mixed.jsonl")[0] == {"instruction": "red?", "input": "", "output": "green fox"}
    assert json.loads(Path("out/manifest.json").read_text())["stages"]["tune"]["rows"] == 19


def test_full_models_are_tuned_and_evaluated(project):
    run(
        project,
        rank={**project["rank"], "use_peft": False, "algorithm": 1},
        tune={**project["tune"], "use_peft": False},
    )
    assert Path("out/tune/model.safetensors").exists()
    assert not Path("out/tune/adapter_config.json").exists()


def test_an_adapter_can_be_merged(project):
    from transformers import AutoModelForCausalLM

    run(project, "rank", "select", "tune", tune={**project["tune"], "merge": True})
    AutoModelForCausalLM.from_pretrained("out/tune")


def test_unusable_rows_are_recorded(project):
    rows = [{"id": "empty", "prompt": "red", "response": "", "unsafe": 0}, *made_rows(8, 1)]
    rows.append({"id": "long", "prompt": "blue " * 200, "response": "fox", "unsafe": 0})
    write_jsonl(Path("candidates.jsonl"), rows)
    run(project, "rank", "select")
    assert {(r["id"], r["reason"]) for r in read("out/rank/drops.jsonl")} == {
        ("empty", "empty_response"),
        ("long", "too_long"),
    }
    unranked = [r for r in read("out/select/dropped.jsonl") if r["sealtune"]["rank"] is None]
    assert {r["id"] for r in unranked} == {"empty", "long"}
    assert scores()["row"] == list(range(1, 9))
    assert [r["id"] for r in read("out/select/dropped.jsonl")][::3] == ["empty", "long"]


# -- resume ------------------------------------------------------------------------------------------------------------


def interrupt_at(step, monkeypatch, number=signal.SIGINT):
    """Send a signal while the step of this number is recorded, like a user's Ctrl-C."""
    from sealtune.pipeline import step_log

    original = step_log.StepLog.on_step

    def on_step(self, record, total, state):
        if record.step == step:
            os.kill(os.getpid(), number)
        original(self, record, total, state)

    monkeypatch.setattr(step_log.StepLog, "on_step", on_step)


def stop_and_resume(project, monkeypatch, step, total, number=signal.SIGINT):
    """A ranking that is stopped after a step and resumed equals an uninterrupted one bit for bit."""
    run(project, "rank", output_dir="uninterrupted")
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupt_at(step, patch, number)
        with pytest.raises(RunError, match=rf"stopped after step {step} of {total}; .*resume_from_checkpoint=true"):
            run(project, "rank")
    assert [p.name for p in Path("out/rank").glob("checkpoint-*")] == [f"checkpoint-{step}"]
    assert signal.getsignal(signal.SIGINT) is handler
    run(project, "rank", resume_from_checkpoint=True)
    assert repr(scores("out")) == repr(scores("uninterrupted"))  # as text, because the gap of Algorithm 2 is NaN
    assert [r["step"] for r in read("out/rank/log.jsonl")] == list(range(1, total + 1))
    assert not list(Path("out/rank").glob("checkpoint-*"))


@pytest.mark.parametrize("algorithm", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_ranking_resumes_bit_for_bit(project, monkeypatch, algorithm, number):
    project["rank"]["algorithm"] = algorithm
    stop_and_resume(project, monkeypatch, 4, 10, number)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 6, 9, 10])  # in both epochs, after them, in both sets
def test_the_probe_resumes_bit_for_bit(project, monkeypatch, step):
    project["rank"]["method"] = "probe"
    stop_and_resume(project, monkeypatch, step, 11)


@pytest.mark.parametrize("step", [1, 7])
def test_features_in_a_scratch_file_are_extracted_again(project, monkeypatch, step):
    """Checkpoints do not contain the hidden states then."""
    from sealtune.ranking import memmap

    monkeypatch.setattr(memmap, "MAX_BYTES", 0)
    project["rank"]["method"] = "probe"
    with monkeypatch.context() as patch:
        interrupt_at(step, patch)
        with pytest.raises(StoppedError):
            run(project, "rank")
    state = next(Path("out/rank").glob("checkpoint-*")) / "state.safetensors"
    with safe_open(state, "pt") as saved:
        assert saved.get_tensor("candidates.done") == 0 and not saved.get_tensor("candidates.states").numel()
    run(project, "rank", resume_from_checkpoint=True)
    found = scores()
    monkeypatch.setattr(memmap, "MAX_BYTES", 2**28)
    run(project, "rank", output_dir="uninterrupted")
    assert found["score"] == scores("uninterrupted")["score"]


def test_ctrl_c_at_the_last_step_stops_after_the_stage(project, monkeypatch, capsys):
    interrupt_at(10, monkeypatch)
    with pytest.raises(StoppedError, match="stopped after rank, which is finished"):
        run(project, "rank", "select")
    assert len(scores()["id"]) == 20
    assert not Path("out/select").exists()
    run(project, "rank", "select")
    assert "rank: finished before" in capsys.readouterr().err


def test_starting_anew_keeps_the_old_checkpoint_until_the_first_new_one(project, monkeypatch):
    from sealtune.pipeline import step_log

    with monkeypatch.context() as patch:
        interrupt_at(4, patch)
        with pytest.raises(RunError):
            run(project, "rank")
    with monkeypatch.context() as patch:
        patch.setattr(step_log.StepLog, "on_step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(project, "rank")
    assert [p.name for p in Path("out/rank").glob("checkpoint-*")] == ["checkpoint-4"]
    with monkeypatch.context() as patch:
        interrupt_at(2, patch)
        with pytest.raises(RunError):
            run(project, "rank")
    assert [p.name for p in Path("out/rank").glob("checkpoint-*")] == ["checkpoint-2"]


def test_tuning_refuses_other_rows_than_those_ranked(finished):
    with pytest.raises(UserError, match="tune: max_length changed since the rows were ranked"):
        run(finished, "tune", max_length=32)
    rows = list(made_rows(20, 1))
    rows[2]["response"] = "something else"
    write_jsonl(Path("candidates.jsonl"), rows)
    with pytest.raises(UserError, match="tune: datasets changed since the rows were ranked"):
        run(finished, "tune")


def test_a_report_uses_the_current_labels_and_refuses_other_rows(finished):
    rows = list(made_rows(20, 1))
    for row in rows:
        row["unsafe"] = 1 - row["unsafe"]
    write_jsonl(Path("candidates.jsonl"), rows)
    before = json.loads(Path("out/results.json").read_text())["ranking"]
    run(finished, "report")
    after = json.loads(Path("out/results.json").read_text())["ranking"]
    assert after["unsafe_rows"] == 20 - before["unsafe_rows"]
    assert after["auroc"] == pytest.approx(1 - before["auroc"])
    write_jsonl(Path("candidates.jsonl"), made_rows(21, 1))
    with pytest.raises(UserError, match="1 rows have no score"):
        run(finished, "report")


def test_the_loss_of_a_single_held_out_row_has_no_interval(project):
    write_jsonl(Path("held.jsonl"), made_rows(1, 3))
    Path("config.yaml").write_text(yaml.safe_dump(project))
    outcome = cli("run", "config.yaml")
    assert outcome.exit_code == 0, outcome.output
    assert "loss on held-out rows" in outcome.output


def test_errors_of_later_stages_are_reported_before_the_first(project):
    project["evaluate"]["prompts"][0]["path"] = "nowhere.jsonl"
    Path("config.yaml").write_text(yaml.safe_dump(project))
    outcome = cli("run", "config.yaml")
    assert outcome.exit_code == 2
    assert "nowhere.jsonl" in outcome.output
    assert not Path("out/rank").exists()


def test_keep_ratio_auto_needs_a_ranker_that_estimates_the_share(project):
    Path("config.yaml").write_text(yaml.safe_dump({**project, "select": {"keep_ratio": "auto"}}))
    for verb in ("run", "select"):
        outcome = cli(verb, "config.yaml")
        assert outcome.exit_code == 2
        assert "keep_ratio: auto" in outcome.output
        assert "rank.method=probe" in outcome.output
        assert not Path("out/select").exists()
        run_stage(Run(build_config(project)), "rank")


def test_a_checkpoint_of_other_settings_is_refused(project, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(3, patch)
        with pytest.raises(RunError):
            run(project, "rank")
    with pytest.raises(UserError, match="was made with another seed;"):
        run(project, "rank", seed=1, resume_from_checkpoint=True)
    write_jsonl(Path("candidates.jsonl"), made_rows(19, 1))
    with pytest.raises(UserError, match="was made with another datasets;"):
        run(project, "rank", resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("method", "name", "change"),
    [
        ("seal", "last_seen.loss", lambda t: t[1:]),
        ("seal", "last_seen.visits", None),
        ("seal", "selector.omega", lambda t: t[:, None]),
        ("seal", "non_finite.rows", lambda t: torch.tensor([10**6])),
        ("seal", "theta.parameter.0", lambda t: t[:1]),
        ("seal", "theta.optimizer.0.exp_avg", lambda t: t[:1]),
        ("probe", "theta.parameter.1", None),
        ("probe", "candidates.losses", lambda t: t[:-1]),
        ("probe", "safe.done", lambda t: t + 10**6),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(project, monkeypatch, method, name, change):
    project["rank"]["method"] = method
    with monkeypatch.context() as patch:
        interrupt_at(3, patch)
        with pytest.raises(RunError):
            run(project, "rank")
    forge_checkpoint(Path("out/rank/checkpoint-3"), name, change)
    with pytest.raises(UserError, match=r"the checkpoint does not fit this run .*delete it"):
        run(project, "rank", resume_from_checkpoint=True)


OLD_KEYS = {
    "seal": {"last_seen.visits": "visits", "last_seen.loss": "last_loss", "non_finite.rows": "faults"},
    "probe": {"candidates.non_finite.rows": "candidates.faults", "safe.non_finite.rows": "safe.faults"},
}


@pytest.mark.parametrize("method", OLD_KEYS)
def test_a_checkpoint_of_an_older_version_is_refused_in_one_line(project, monkeypatch, method):
    project["rank"]["method"] = method
    with monkeypatch.context() as patch:
        interrupt_at(3, patch)
        with pytest.raises(RunError):
            run(project, "rank")
    rename_in_checkpoint(Path("out/rank/checkpoint-3"), OLD_KEYS[method])
    Path("config.yaml").write_text(yaml.safe_dump(project))
    outcome = cli("rank", "config.yaml", "resume_from_checkpoint=true")
    assert outcome.exit_code == 2
    (error,) = [line for line in outcome.output.splitlines() if line.startswith("error: ")]
    assert "the checkpoint does not fit this run" in error and "another version" in error
    assert "Traceback" not in outcome.output


def test_too_many_nan_losses_stop_the_ranking(project, monkeypatch):
    from sealtune.models import causal_lm

    original, calls = causal_lm.CausalLM.losses, []

    def losses(self, tokens, mask):
        calls.append(1)
        return original(self, tokens, mask) * (float("nan") if len(calls) == 6 else 1)

    monkeypatch.setattr(causal_lm.CausalLM, "losses", losses)
    with pytest.raises(RunError, match=r"the loss of \d+ of 20 rows is not finite \(1-\d+"):
        run(project, "rank")
    assert not Path("out/rank/scores.parquet").exists()


def test_a_nan_loss_while_tuning_stops_the_stage(project):
    with pytest.raises(RunError, match=r"tuning stopped at step \d: the loss is nan; the cause is among rows 1-\d+, "):
        run(project, "rank", "select", "tune", tune={**project["tune"], "learning_rate": 1e30, "num_train_epochs": 4})
    assert not Path("out/tune").exists()


# -- the command line --------------------------------------------------------------------------------------------------


def cli(*words):
    from typer.testing import CliRunner

    from sealtune.cli.main import app

    return CliRunner().invoke(app, [str(word) for word in words])


def test_every_command_from_a_file_and_from_flags(project):
    project["output_dir"] = "made"
    Path("config.yaml").write_text(yaml.safe_dump(project))
    outcome = cli("run", "config.yaml", "max_length=48")
    assert outcome.exit_code == 0, outcome.output
    assert "made/report.html" in outcome.output
    assert "unsafe rows" in outcome.output
    shown = cli("show", "made")
    assert shown.exit_code == 0 and "before → after tuning" in shown.stdout and "least certain rows" in shown.stdout
    again = cli("run", "config.yaml", "max_length=48", "--json")
    found = json.loads(again.stdout)
    assert list(found["stages"]) == list(STAGES) and found["output"] == "made/report.html"
    assert found["results"]["rows"]["kept"] == found["stages"]["select"]["rows"] == 16
    assert "skipped" in again.stderr
    quiet = cli("report", "--out", "made", "--quiet", "--force")
    assert (quiet.stdout, quiet.stderr) == ("made/report.html\n", "")
    failed = cli("rank", "--out", "none", "--json", "--quiet")
    assert failed.stdout == "" and failed.stderr.startswith("error: no config") and failed.exit_code == 2
    model = project["model_name_or_path"]
    words = ["--model", model, "--data", "candidates.jsonl", "--safe", "safe.jsonl", "--out", "flags"]
    assert cli("rank", *words, "rank.method=random").exit_code == 0
    selected = json.loads(cli("select", "--out", "flags", "--keep", "0.5", "--json").stdout)
    assert selected["stages"]["select"]["rows"] == 10 and selected["output"] == "flags/select/kept.jsonl"
    assert len(read("flags/select/kept.jsonl")) == 10
    assert cli("report", "--out", "flags").exit_code == 0
    shown = cli("inspect", "config.yaml")
    assert shown.exit_code == 0
    assert "<|im_end|>" in shown.output
    assert json.loads(cli("schema").output)["title"] == "Config"
    assert "torch" in cli("env").output


def broken_json(project):
    Path("candidates.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 6 + '{"prompt": "a" "b"}\n')


def empty(project):
    Path("candidates.jsonl").write_text("")


def no_header(project):
    Path("rows.csv").write_text("some text,another text\nmore text,and more\n")
    project["datasets"] = ["rows.csv"]


def unknown_columns(project):
    write_jsonl(Path("candidates.jsonl"), [{"fish": 1, "bird": 2}])


def nothing_usable(project):
    write_jsonl(Path("candidates.jsonl"), [{"prompt": "a", "response": ""}])


def nothing_short_enough(project):
    write_jsonl(Path("candidates.jsonl"), [{"prompt": "red " * 300, "response": "x"}])


BAD = [
    (lambda p: p.update(datasets=["none.jsonl"]), ["none.jsonl", "no such file"]),
    (broken_json, ["candidates.jsonl", "line 7", "not valid JSON"]),
    (empty, ["candidates.jsonl", "empty"]),
    (no_header, ["rows.csv", "some text"]),
    (unknown_columns, ["candidates.jsonl", "bird, fish"]),
    (nothing_usable, ["candidates.jsonl", "no usable row", "empty response"]),
    (nothing_short_enough, ["no usable row", "too long"]),
    (lambda p: p.update(datasets=[]), ["datasets", "--data"]),
    (lambda p: p.update(safe_datasets=[]), ["safe_datasets", "--safe"]),
    (lambda p: p.update(rnak={}), ["unknown key 'rnak'", "did you mean 'rank'"]),
    (lambda p: p.update(model_name_or_path="./nowhere"), ["model_name_or_path", "./nowhere"]),
    (lambda p: p.update(model_name_or_path="."), ["model_name_or_path", "cannot be loaded"]),
    (lambda p: p.update(select={"keep_ratio": "some"}), ["select.keep_ratio"]),
    (lambda p: p["rank"].update(method="sael"), ["no ranker 'sael'", "'seal'"]),
    (lambda p: p["rank"].update(lora_target_modules=["nope"]), ["lora_target_modules"]),
    (lambda p: p["rank"].update(lora_target_modules=["lm_head"]), ["lora_target_modules", "output layer"]),
    (lambda p: p.update(load_in_4bit=True, rank={**p["rank"], "use_peft": False}), ["load_in_4bit"]),
    (lambda p: p.update(load_in_4bit=True, tune={"merge": True}), ["load_in_4bit", "tune.merge"]),
    (lambda p: p.update(output_dir="candidates.jsonl"), ["output_dir", "cannot be written to"]),
]


@pytest.mark.parametrize("spoil, words", BAD, ids=lambda value: getattr(value, "__name__", None))
def test_bad_input_is_one_line_with_exit_code_two(project, spoil, words):
    spoil(project)
    Path("config.yaml").write_text(yaml.safe_dump(project))
    outcome = cli("rank", "config.yaml")
    assert outcome.exit_code == 2, outcome.output
    errors = [line for line in outcome.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert all(word in errors[0] for word in words), errors[0]
    assert not list(Path().glob("out/**/*.parquet"))


def test_scores_of_other_rows_are_refused(project):
    run(project, "rank")
    write_jsonl(Path("candidates.jsonl"), made_rows(20, 9))
    Path("config.yaml").write_text(yaml.safe_dump(project))
    outcome = cli("select", "config.yaml")
    assert outcome.exit_code == 2
    assert "do not match the data" in outcome.output


def test_an_invalid_label_is_named(project):
    rows = list(made_rows(20, 1))
    rows[3]["unsafe"] = "maybe"
    write_jsonl(Path("candidates.jsonl"), rows)
    run(project, "rank")
    with pytest.raises(UserError, match="row 1-3 has 'maybe' in 'unsafe'"):
        run(project, "report")


def test_a_hostile_error_cannot_move_the_cursor(project):
    outcome = cli("rank", "\x1b[2Jevil")
    assert outcome.exit_code == 2
    assert "\x1b[2J" not in outcome.output
    assert "\\x1b[2Jevil" in outcome.output


def test_a_full_disk_is_one_line(project, monkeypatch):
    import errno

    from sealtune.core import files

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "_flush", full)
    Path("config.yaml").write_text(yaml.safe_dump(project))
    outcome = cli("rank", "config.yaml", "rank.method=random")
    assert outcome.exit_code == 1
    assert "the disk is full" in outcome.output
    assert not [p for p in Path("out").rglob("*") if p.is_file()]


def test_a_broken_model_file_is_one_line(project, tiny_folder):
    import shutil

    shutil.copytree(tiny_folder, "torn")
    weights = Path("torn/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    Path("fake.gguf").write_bytes(b"not gguf")
    Path("config.yaml").write_text(yaml.safe_dump(project))
    for model in ("torn", "fake.gguf"):
        outcome = cli("rank", "config.yaml", f"model_name_or_path={model}")
        assert outcome.exit_code == 2, outcome.output
        assert outcome.output.count("error: ") == 1


def test_a_four_bit_base_is_ranked_and_tuned_on(project, tmp_path):
    pytest.importorskip("bitsandbytes")
    from helpers.chat_tokenizers import chatml_tokenizer
    from helpers.tiny import tiny_model

    tokenizer = chatml_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128}
    tiny_model(**sizes, eos_token_id=tokenizer.eos_token_id).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    project |= {"model_name_or_path": str(tmp_path / "model"), "load_in_4bit": True}
    for stage in ("rank", "tune"):
        project[stage] |= {"gradient_checkpointing": True}
    project["rank"]["algorithm"] = 1
    run(project, "rank", "select", "tune", "evaluate")
    assert len(set(scores()["score"])) == 20
    results = json.loads(Path("out/evaluate/results.json").read_text())
    losses = [row["value"] for row in results if row["measure"] == "loss"]  # two sets before, two after
    assert len(losses) == 4 and losses[3] < losses[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
def test_preemption_has_its_own_exit_code(project, monkeypatch, number, code):
    Path("config.yaml").write_text(yaml.safe_dump(project), encoding="utf-8")
    interrupt_at(4, monkeypatch, number)
    outcome = cli("run", "config.yaml")
    assert outcome.exit_code == code
    assert "resume_from_checkpoint=true" in outcome.output
