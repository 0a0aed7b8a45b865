"""The same seed gives the same bytes on a CPU, in another process too; another seed gives others."""

import json
import os
import subprocess
import sys
from pathlib import Path

from sealtune.core.config_io import build_config
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage

MADE = ("rank/scores.parquet", "rank/selector.safetensors", "select/kept.jsonl", "tune/adapter_model.safetensors")


def make(values):
    for method in ("seal", "probe"):
        config = values | {
            "rank": values["rank"] | {"method": method},
            "output_dir": f"{values['output_dir']}/{method}",
        }
        run = Run(build_config(config))
        for stage in ("rank", "select", "tune"):
            run_stage(run, stage)


def made(folder):
    return {
        f"{method}/{name}": Path(folder, method, name).read_bytes() for method in ("seal", "probe") for name in MADE
    }


def test_the_same_seed_gives_the_same_bytes_in_another_process(project):
    project["rank"] |= {"algorithm": 1, "lora_dropout": 0.1}
    project["tune"] |= {"lora_dropout": 0.1}
    words = [sys.executable, __file__, json.dumps(project | {"output_dir": "there"})]
    # Another seed of hashes: nothing may hang on the order of a set. Not beside the other: their threads would wait.
    subprocess.run(words, env=os.environ | {"PYTHONHASHSEED": "7"}, check=True)
    make(project | {"output_dir": "here"})
    assert made("here") == made("there")
    make(project | {"output_dir": "other", "seed": 1})
    assert not set(made("here").values()) & {made("other")[f"seal/{name}"] for name in (MADE[0], MADE[3])}


if __name__ == "__main__":
    make(json.loads(sys.argv[1]))
