import pytest

from sealtune.cli import launch
from sealtune.core.errors import UserError


@pytest.mark.parametrize(
    ("config", "message"),
    [("fsdp3", "did you mean 'fsdp2'"), ("nothing.yaml", "no file nothing.yaml"), ("multi_gpu", "has no visible GPU")],
)
def test_unknown_configs_and_missing_gpus_are_refused(config, message, monkeypatch):
    monkeypatch.delenv(launch.LAUNCHED, raising=False)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    monkeypatch.setattr("os.execv", lambda *command: pytest.fail("launched"))
    with pytest.raises(UserError, match=message):
        launch.launch(config, None, ["rank"])


def test_a_second_launcher_is_refused(monkeypatch):
    monkeypatch.delenv(launch.LAUNCHED, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("os.execv", lambda *command: pytest.fail("launched"))
    with pytest.raises(UserError, match="another launcher is running already"):
        launch.launch("multi_cpu", 2, ["rank"])


@pytest.mark.parametrize("config", launch.config_names())
def test_every_config_starts_a_launcher_once(config, monkeypatch):
    monkeypatch.delenv(launch.LAUNCHED, raising=False)
    commands = []
    monkeypatch.setattr("os.execv", lambda program, words: commands.append(words))
    launch.launch(config, 3, ["rank", "c.yaml"])
    assert commands[0][-4:] == ["-m", "sealtune", "rank", "c.yaml"] and "3" in commands[0]
    launch.launch(config, 3, ["rank", "c.yaml"])  # launched processes do not launch again
    assert len(commands) == 1
