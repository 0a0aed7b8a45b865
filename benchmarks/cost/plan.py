"""Are the formulas of `sealtune env --plan` right, and what do they say? Counts small and large models; writes tables.

python benchmarks/plan.py --count --output benchmarks/results/plan.json    # minutes; no model is downloaded
python benchmarks/plan.py --write                                          # the tables of docs/scale.md
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from sealtune.plan import PROXY, SIZES, Case, limits, size

from sealtune.cli.dimensions import KNOWN, Shape
from sealtune.cli.estimate import GPUS, SAFE_ROWS, TOKENS
from sealtune.cli.flops import passes, trained
from sealtune.cli.gpu_memory import OVERHEAD, Engine, base_bytes, rank_bytes
from sealtune.core.config import Config
from sealtune.core.config_io import build_config
from sealtune.ranking.job import Amounts

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs/scale.md", ROOT / "benchmarks/results"
MODELS = {"8B": "meta-llama/Meta-Llama-3-8B-Instruct", "70B": "meta-llama/Meta-Llama-3-70B-Instruct"}
SMALL = Shape(8, 512, 1536, 8, 4, 2048, 64)
COUNTED: dict[str, tuple[Shape, dict, dict]] = {
    "8 layers of 512, for real": (SMALL, {"batch": 4, "length": 256}, {}),
    "the same, checkpointing": (SMALL, {"batch": 4, "length": 256}, {"gradient_checkpointing": True}),
    "the same, trained whole": (SMALL, {"batch": 4, "length": 256}, {"use_peft": False}),
    "8B": (KNOWN[MODELS["8B"]], {"batch": 4, "length": 512}, {}),
    "8B, checkpointing": (KNOWN[MODELS["8B"]], {"batch": 4, "length": 2048}, {"gradient_checkpointing": True}),
    "8B, adapters everywhere": (
        KNOWN[MODELS["8B"]],
        {"batch": 4, "length": 512},
        {"lora_target_modules": "all-linear"},
    ),
    "70B, checkpointing": (KNOWN[MODELS["70B"]], {"batch": 4, "length": 2048}, {"gradient_checkpointing": True}),
}
"""What is counted: shape, rows and their length, settings of ``rank``."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS / "plan.json")
    parser.add_argument("--bytes-a-row", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bytes_a_row:
        print(bytes_a_row())
        return
    if args.count:
        report = {"command": " ".join(["python", *sys.argv]), "counted": counted()}
        apart = [sys.executable, __file__, "--bytes-a-row"]  # a fresh process has no memory to use again
        report |= {"bytes_a_row": float(subprocess.check_output(apart, text=True).split()[-1]), **about()}
        args.output.write_text(json.dumps(report, indent=2) + "\n")
    if args.write:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print("\n\n".join(tables().values()))


def about() -> dict:
    from sealtune.pipeline.environment import machine, versions

    return {"machine": machine(), "versions": versions()}


# -- counted -----------------------------------------------------------------------------------------------------------


def config_of(batch: int, length: int, settings: dict) -> Config:
    rank = {"method": "seal", "per_device_train_batch_size": batch, **settings}
    return build_config({"model_name_or_path": "-", "dtype": "bfloat16", "max_length": length, "rank": rank})


def counted() -> dict[str, dict[str, float]]:
    from counted import count

    found = {}
    for name, (shape, sizes, settings) in COUNTED.items():
        operations, held = count(shape, config_of(**sizes, settings=settings), imagined=shape is not SMALL)
        found[name] = {"operations_per_token": operations, "bytes": held}
        print(name, found[name], file=sys.stderr, flush=True)
    return found


def bytes_a_row(n: int = 2_000_000) -> float:
    """What a process holds at most of each of n candidates of `seal`, from the first step to the outcome."""
    import torch

    from probe import most_memory, resident, two_layers
    from scale import mapped_rows
    from sealtune.core.config import RankConfig
    from sealtune.models.adapters import lora_players
    from sealtune.ranking.loop import SealLoop
    from sealtune.ranking.methods.seal import make_selector
    from sealtune.ranking.safe_set import PLAYERS

    settings = RankConfig(per_device_train_batch_size=8, algorithm=1)
    held = 0.0
    for rows in (1000, n):  # the first for what comes once
        torch.manual_seed(0)
        players = lora_players(two_layers(300), settings, PLAYERS[1], seed=0)
        with tempfile.TemporaryDirectory() as folder:
            candidates, safe = mapped_rows(Path(folder, "candidates"), rows), mapped_rows(Path(folder, "safe"), 64)
            before = resident()["allocated"]
            with most_memory() as memory:
                ranking = SealLoop(candidates, safe, players, make_selector(rows, settings), settings, seed=0)
                next(ranking.run())
                ranking.step = ranking.total_steps
                ranking.finish(lambda *_: None)
            held = (memory["allocated"] - before) / rows
            del ranking
    return held


def predicted(name: str) -> tuple[float, float]:
    """Operations a token and bytes by the formulas, of what ``counted`` counts: no optimizer has stepped yet."""
    shape, sizes, settings = COUNTED[name]
    config = config_of(**sizes, settings=settings)
    learns = trained(shape, config.rank)
    absent = (8 if config.rank.use_peft else 12) * learns + OVERHEAD
    return sum(passes(shape, config.rank, config.max_length)), rank_bytes(shape, config) - absent


def weights(name: str) -> float:
    """Bytes of the model itself, about which there is no doubt."""
    shape, sizes, settings = COUNTED[name]
    config = config_of(**sizes, settings=settings)
    return base_bytes(shape, config) if config.rank.use_peft else 4.0 * shape.parameters


# -- tables of docs/scale.md -------------------------------------------------------------------------------------------


def tables() -> dict[str, str]:
    found = {"counted": counted_table(), "engines": engines_table(), "network": network_table()}
    return found | {"rows": rows_table(), "limits": limits_table()}


def filled(page: str) -> str:
    """The page with every table between its two marks."""
    for name, table in tables().items():
        page = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, t=table: f"{m[1]}{t}\n{m[2]}", page, flags=re.S
        )
    return page


def markdown(table: list[list[str]]) -> str:
    head, *rows = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([head, "|---" * len(table[0]) + "|", *rows])


def case(model: str, gpus: int = 8, rows: int = 10**5, **settings: object) -> Case:
    """The paper's recipe on one of the models, with as long rows as ours."""
    rank = {"method": "seal", "per_device_train_batch_size": 4, "gradient_checkpointing": True, **settings}
    config = build_config({"model_name_or_path": "-", "dtype": "bfloat16", "max_length": 2048, "rank": rank})
    return Case(KNOWN[MODELS.get(model, model)], config, Amounts(rows, TOKENS, SAFE_ROWS), GPUS["H100"], gpus)


def counted_table() -> str:
    report = json.loads((RESULTS / "plan.json").read_text(encoding="utf-8"))["counted"]
    table = [
        [
            "model",
            "rows x tokens",
            "operations a token: counted",
            "formula",
            "bytes beyond the weights: counted",
            "formula",
        ]
    ]
    for name, (_, sizes, _) in COUNTED.items():
        found, (operations, held) = report[name], predicted(name)
        own = weights(name)
        row = [name, f"{sizes['batch']} x {sizes['length']}", f"{found['operations_per_token']:.3e}"]
        row += [f"{operations / found['operations_per_token']:.3f} of it", size(found["bytes"] - own)]
        table.append([*row, f"{(held - own) / (found['bytes'] - own):.2f} of it"])
    return markdown(table)


def engines_table() -> str:
    table = [["engine", "GPUs", "8B", "8B, no checkpointing", "8B, Algorithm 1", "8B, trained whole", "70B"]]
    variants = [{}, {"gradient_checkpointing": False}, {"algorithm": 1}, {"use_peft": False}]
    for gpus in (8, 64):
        cases = [case("8B", gpus, **variant) for variant in variants] + [case("70B", gpus)]
        memory = [{(name, engine.gpus): one.memory(engine) for name, one, engine in c.engines()} for c in cases]
        for name, count in memory[0]:
            if count == gpus or gpus == 8:
                cells = [size(found[name, count]) if (name, count) in found else "-" for found in memory]
                table.append([f"`{name}`", str(count), *cells])
    return markdown(table)


def network_table() -> str:
    table = [["model", "engine", "GPUs", "losses", "gradients", "weights", "gathering over computing"]]
    for model in MODELS:
        for gpus in (8, 64):
            one = case(model, gpus, gradient_accumulation_steps=2)
            for name in ("multi_gpu", "fsdp2"):
                engine = Engine(name, gpus)
                waits = one.network_hours(engine) / (one.gpu_hours() / gpus)
                table.append([model, f"`{name}`", str(gpus), *map(size, one.network(engine)), f"{waits:.2f}"])
    return markdown(table)


def rows_table() -> str:
    methods = {"probe": {"method": "probe"}, "seal, Algorithm 2": {}, "seal, Algorithm 1": {"algorithm": 1}}
    heads = ["rows", "method", "operations, 8B", "H100 hours: 1B", "8B", "70B"]
    table = [[*heads, "memory a process, 8B", "tokens on disk", "scratch files, 8B"]]
    for rows in SIZES:
        for name, settings in methods.items():
            one = case("8B", rows=rows, **settings)
            hours = [case(model, rows=rows, **settings).gpu_hours() for model in (PROXY, "8B", "70B")]
            work = f"{one.gpu_hours() * 3600 * one.gpu.speed:.1e}"
            cells = [f"{h:,.0f}" if h >= 10 else f"{h:.1f}" for h in hours]
            kept = (one.host_bytes(), one.disk_bytes(), one.scratch_bytes())
            table.append([f"{rows:,}", name, work, *cells, *map(size, kept)])
    return markdown(table)


def limits_table() -> str:
    """Each limit once, at the fewest rows that meet it."""
    table, told = [["model", "from rows", "method", "what gives way", "what to do"]], set()
    for model in MODELS:
        for rows in SIZES:
            for method in ("probe", "seal"):
                for what, knob in limits(case(model, rows=rows, method=method)):
                    kind = model, method, re.sub(r"[\d.,]+( [kMGT]?B)?", "", what)  # whatever its size
                    if kind not in told:
                        told.add(kind)
                        table.append([model, f"{rows:,}", f"`{method}`", what, knob])
    return markdown(table)


if __name__ == "__main__":
    main()
