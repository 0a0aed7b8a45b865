"""A full disk: one line, finished stages stay intact, and the run resumes once there is space."""

import contextlib
import json
import resource
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sealtune.cli.main import app
from sealtune.pipeline.folder import RunFolder

STAGES = ("rank", "select", "tune", "evaluate", "report")
PAGE = 4096
ROOMS = (0, 3 * PAGE, 24 * PAGE)


class SmallDisk:
    """A separate file system, filled up to a few bytes."""

    full = "the disk is full"

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("no permission to mount a small disk")

    def close(self):
        subprocess.run(["umount", "-l", str(self.folder)], check=True)

    @contextlib.contextmanager
    def room(self, size):
        filler = self.folder / "filler"
        with filler.open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while file.write(b"x" * PAGE) == PAGE:
                    pass
            file.truncate(max(0, file.tell() - size))
        yield
        filler.unlink()


class ShortFiles:
    """A limit on the size of a file. It fails like a full disk and needs no permission."""

    full = "the file exceeds the size limit"

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def close(self):
        pass

    @contextlib.contextmanager
    def room(self, size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(params=[SmallDisk, ShortFiles])
def disk(request, tmp_path):
    made = request.param(tmp_path / "disk")
    yield made
    made.close()


def sealtune(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def write_config(project, disk):
    project["rank"] |= {"save_steps": 2}
    project["tune"] |= {"save_steps": 1, "num_train_epochs": 2}
    project["evaluate"]["held_out_datasets"] = []
    Path("config.yaml").write_text(yaml.safe_dump({**project, "output_dir": str(disk.folder / "out")}))
    Path("free.yaml").write_text(yaml.safe_dump({**project, "output_dir": "free"}))


def fails_in_one_line(outcome, disk):
    """Whether it failed. If so, it must have failed in one line."""
    if outcome.exit_code == 0:
        return False
    assert outcome.exit_code == 1, outcome.output
    (line,) = [line for line in outcome.output.splitlines() if line.startswith("error: ")]
    assert isinstance(outcome.exception, SystemExit)
    assert disk.full in line or "cannot be written to" in line
    assert ".part" not in line
    return True


def test_every_stage_fails_in_one_line_and_resumes_with_space(project, disk):
    write_config(project, disk)
    folder = RunFolder(disk.folder / "out")
    sealtune("rank", "config.yaml", "rank.method=random")  # its manifest must not be lost either
    for i, stage in enumerate(STAGES):
        failures = 0
        for room in ROOMS:
            with disk.room(room):
                outcome = sealtune(stage, "config.yaml", "resume_from_checkpoint=true")
            if not fails_in_one_line(outcome, disk):
                break
            failures += 1
            assert not list(folder.root.rglob("*.part"))
            for finished in (*STAGES[:i], *(["rank"] if i == 0 else [])):
                folder.outputs_of(finished)  # raises if a file changed
        assert failures
        outcome = sealtune(stage, "config.yaml", "resume_from_checkpoint=true")
        assert outcome.exit_code == 0, outcome.output
    assert sealtune("run", "free.yaml").exit_code == 0
    for name in (
        "rank/scores.parquet",
        "select/kept.jsonl",
        "tune/adapter_model.safetensors",
        "evaluate/verdicts.jsonl",
    ):
        assert folder.path(name).read_bytes() == Path("free", name).read_bytes()


@pytest.mark.slow
def test_a_comparison_resumes_with_space(project, disk):
    project |= {"compare": {"methods": ["base", "full", "random"], "seeds": [0]}}
    project["rank"]["method"] = "random"
    write_config(project, disk)
    with disk.room(32 * PAGE):
        outcome = sealtune("compare", "config.yaml")
    assert fails_in_one_line(outcome, disk)
    manifest = json.loads((disk.folder / "out/compare/full/seed-0/manifest.json").read_text())
    outcome = sealtune("compare", "config.yaml")
    assert outcome.exit_code == 0, outcome.output
    assert outcome.output.count("finished before from the same inputs") == len(manifest["stages"]) > 0
