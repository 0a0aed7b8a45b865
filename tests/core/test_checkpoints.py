import signal

import pytest
import torch

from sealtune.core.checkpoints import Checkpoint, Checkpointer, Checkpoints
from sealtune.core.errors import UserError
from sealtune.core.files import Folder


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "run")


def names(folder):
    return sorted(str(p.relative_to(folder.root)) for p in folder.root.rglob("*") if p.is_file())


def test_two_checkpoints_are_kept_and_the_newest_intact_one_is_read(folder):
    inputs, checkpoints = {"seed": 1, "rank": {"gamma": 0.1}}, Checkpoints(folder, "rank")
    for step in (2, 4, 10):
        checkpoints.write(Checkpoint(step, {"x": torch.tensor([float(step)])}, [{"step": step}], {"lr": 0.1}), inputs)
    assert [p.name for p in checkpoints.folders()] == ["checkpoint-4", "checkpoint-10"]
    found = checkpoints.read(True, inputs)
    assert (found.step, found.state["x"].item(), found.records, found.rest) == (10, 10.0, [{"step": 10}], {"lr": 0.1})
    folder.path("rank/checkpoint-10/state.safetensors").write_bytes(b"torn")
    assert checkpoints.read(True, inputs).step == 4
    with pytest.raises(UserError, match="not a complete checkpoint"):
        checkpoints.read(str(folder.path("rank/checkpoint-10")), inputs)


def test_a_checkpoint_of_other_inputs_is_refused(folder):
    Checkpoints(folder, "rank").write(Checkpoint(2, {"x": torch.zeros(1)}, []), {"seed": 1, "model": "a"})
    with pytest.raises(UserError, match="another model;"):
        Checkpoints(folder, "rank").read(True, {"seed": 1, "model": "b"})


def test_a_named_checkpoint_applies_to_its_own_stage_only(folder):
    rank, tune = Checkpoints(folder, "rank"), Checkpoints(folder, "tune")
    rank.write(Checkpoint(2, {"x": torch.zeros(1)}, []), {"seed": 1})
    named = str(folder.path("rank/checkpoint-2"))
    assert rank.read(named, {"seed": 1}).step == 2
    assert tune.read(named, {"seed": 9}) is None
    tune.write(Checkpoint(4, {"x": torch.zeros(1)}, []), {"seed": 9})
    assert tune.read(named, {"seed": 9}).step == 4
    tune.remove()
    assert names(folder) == ["rank/checkpoint-2/checkpoint.json", "rank/checkpoint-2/state.safetensors"]


def test_a_named_checkpoint_of_a_finished_stage_is_missed_by_that_stage_only(folder):
    rank, tune = Checkpoints(folder, "rank"), Checkpoints(folder, "tune")
    rank.write(Checkpoint(2, {"x": torch.zeros(1)}, []), {"seed": 1})
    named = str(folder.path("rank/checkpoint-2"))
    rank.remove()
    assert tune.read(named, {"seed": 9}) is None
    with pytest.raises(UserError, match="not a complete checkpoint"):
        rank.read(named, {"seed": 1})


def test_checkpoints_after_a_restart_replace_later_ones(folder, capsys):
    checkpoints = Checkpoints(folder, "rank")
    for step in (98, 100):
        checkpoints.write(Checkpoint(step, {"x": torch.zeros(1)}, []), {})
        folder.path(f"rank/checkpoint-{step}/state.safetensors").write_bytes(b"damaged")
    assert checkpoints.read(True, {}) is None
    assert capsys.readouterr().err.count("damaged; skipped") == 2
    for step in (2, 4, 6):
        checkpoints.write(Checkpoint(step, {"x": torch.zeros(1)}, []), {})
    assert [p.name for p in checkpoints.folders()] == ["checkpoint-4", "checkpoint-6"]


def test_the_metadata_of_a_checkpoint_is_hashed_too(folder):
    checkpoints = Checkpoints(folder, "rank")
    checkpoints.write(Checkpoint(2, {"x": torch.zeros(1)}, [{"loss": float("nan")}]), {})
    assert checkpoints.read(True, {}).step == 2
    path = folder.path("rank/checkpoint-2/checkpoint.json")
    path.write_text(path.read_text().replace('"step": 2', '"step": 3'))
    assert checkpoints.read(True, {}) is None


@pytest.mark.parametrize("content", ["[]", "{}", "nonsense", '{"sha256": 1}'])
def test_an_invalid_checkpoint_is_skipped(folder, content):
    checkpoints = Checkpoints(folder, "rank")
    for step in (2, 4):
        checkpoints.write(Checkpoint(step, {"x": torch.zeros(1)}, []), {})
    folder.path("rank/checkpoint-4/checkpoint.json").write_text(content)
    assert checkpoints.read(True, {}).step == 2


def test_a_second_sigterm_is_ignored_and_ctrl_c_stops_at_once(tmp_path, capsys):
    """A scheduler signals every process of a job, and the launcher forwards its own signal."""
    checkpointer = Checkpointer("rank", Folder(tmp_path), {}, 10**6)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), checkpointer.stop_on_signals():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert checkpointer.stop_requested == signal.SIGTERM
        assert capsys.readouterr().err.strip() == "rank: stopping after this step; Ctrl-C to stop at once"
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before
