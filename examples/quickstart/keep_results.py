"""Keeps of a run's results.json what a report shows beside another run: keep_results.py RESULTS OUTPUT."""

import json
import sys
from pathlib import Path

KEYS = ("model", "method", "seed", "rows", "evaluation")
MADE_BY = "sealtune run configs/quickstart.yaml select.keep_ratio=1.0 tune.guard=off output_dir=runs/plain"


def keep(source: Path, target: Path) -> None:
    """Write those keys, the mode of the guard, and how the run was made."""
    found = json.loads(source.read_text(encoding="utf-8"))
    if found["guard"]["mode"] != "off" or found["rows"]["dropped"]:
        sys.exit(f"{source}: tuned with a guard or on some of the rows; make it by: {MADE_BY}")
    kept = {"made_by": MADE_BY} | {key: found[key] for key in KEYS} | {"guard": {"mode": found["guard"]["mode"]}}
    target.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    keep(Path(sys.argv[1]), Path(sys.argv[2]))
