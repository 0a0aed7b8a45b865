"""Ranks random rows in several processes: ``torchrun --nproc_per_node 2 rank_in_processes.py FOLDER``.

FOLDER contains ``jobs.json``, a list of {"name", "config", "environment"}; the main process writes FOLDER/<name>.json.
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from helpers.tiny import random_rows, tiny_model
from sealtune.core import distributed
from sealtune.core.config_io import build_config
from sealtune.ranking import methods
from sealtune.ranking.job import Job


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for job in json.loads((folder / "jobs.json").read_text()):
        os.environ.update(job["environment"])
        scores = rank(job["config"])
        for name in job["environment"]:
            del os.environ[name]
        if distributed.is_main_process():
            (folder / f"{job['name']}.json").write_text(json.dumps(scores))


def rank(settings):
    """The columns of the scores, and ``held``: the share of the blocks' weights that this process stores."""
    config = build_config({"model_name_or_path": "m", "output_dir": "o", "dtype": "float32", "rank": settings})
    model = tiny_model()
    total = sum(p.numel() for p in model.model.layers.parameters())
    rows, safe = random_rows(21, seed=1), random_rows(5, seed=2, prefix="safe")
    scores = methods.rank(Job(rows, safe, config, lambda full: model))
    held = sum(
        (p.to_local() if isinstance(p, DTensor) else p).numel()
        for name, p in model.model.layers.named_parameters()
        if ".lora_" not in name
    )
    columns = {name: getattr(scores, name).tolist() for name in ("score", "weight", "loss", "gap", "visits")}
    return {"ids": list(scores.ids), "held": held / total, **columns}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
