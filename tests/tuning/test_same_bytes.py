"""The same seed gives the same bytes on a CPU, also in another process; another seed gives other bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

from sealtune.core.config_io import build_config
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage

OUTPUTS = ("rank/scores.parquet", "rank/selector.safetensors", "select/kept.jsonl", "tune/adapter_model.safetensors")


def run_stages(values, methods=("seal", "probe")):
    for method in methods:
        config = values | {
            "rank": values["rank"] | {"method": method},
            "output_dir": f"{values['output_dir']}/{method}",
        }
        run = Run(build_config(config))
        for stage in ("rank", "select", "tune"):
            run_stage(run, stage)


def outputs(folder):
    return {
        f"{method}/{name}": Path(folder, method, name).read_bytes() for method in ("seal", "probe") for name in OUTPUTS
    }


def test_the_same_seed_gives_the_same_bytes_in_another_process(project):
    project["rank"] |= {"algorithm": 1, "lora_dropout": 0.1}
    project["tune"] |= {"lora_dropout": 0.1}
    command = [sys.executable, __file__, json.dumps(project | {"output_dir": "there"})]
    # With another hash seed, because nothing may depend on the order of a set. One after the other: threads would wait.
    subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "7"}, check=True)
    run_stages(project | {"output_dir": "here"})
    assert outputs("here") == outputs("there")
    run_stages(project | {"output_dir": "other", "seed": 1}, ["seal"])
    for name in (OUTPUTS[0], OUTPUTS[3]):
        assert Path("other/seal", name).read_bytes() not in outputs("here").values()


if __name__ == "__main__":
    run_stages(json.loads(sys.argv[1]))
