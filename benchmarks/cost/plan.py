"""Are the formulas of ``sealtune env`` right, and what do they predict? Counts FLOPs and bytes; writes tables.

python benchmarks/cost/plan.py --count --output benchmarks/results/plan.json    # minutes; downloads nothing
python benchmarks/cost/plan.py --write                                          # the tables of docs/scale.md
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from sealtune.cli.dimensions import KNOWN, ModelDimensions
from sealtune.cli.estimate import GPUS, SAFE_ROWS, TOKENS
from sealtune.cli.flops import rank_cost, token_flops, trainable_parameters
from sealtune.cli.gpu_memory import OVERHEAD, Strategy, base_bytes, rank_bytes
from sealtune.core.config import Config
from sealtune.core.config_io import build_config
from sealtune.ranking.job import Amounts

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.lib.capacity import PROXY, Case, limits, size
from benchmarks.lib.reports import provenance, run_child, write_report

ROOT = Path(__file__).parents[2]
PAGE, RESULTS = ROOT / "docs/scale.md", ROOT / "benchmarks/results"
MODELS = {"8B": "meta-llama/Meta-Llama-3-8B-Instruct", "70B": "meta-llama/Meta-Llama-3-70B-Instruct"}
SIZES = [10**power for power in range(5, 10)]
SMALL = ModelDimensions(8, 512, 1536, 8, 4, 2048, 64)


class Counted(NamedTuple):
    """One micro-batch whose FLOPs and bytes are counted: ``batch`` rows of ``length`` tokens."""

    title: str
    model: ModelDimensions
    batch: int
    length: int
    settings: dict[str, Any] = {}  # noqa: RUF012

    def config(self) -> Config:
        rank = {"method": "seal", "per_device_train_batch_size": self.batch, **self.settings}
        return build_config({"model_name_or_path": "-", "dtype": "bfloat16", "max_length": self.length, "rank": rank})

    def predicted(self) -> tuple[float, float]:
        """FLOPs per token and bytes by the formulas; the optimizer has not taken a step yet."""
        config = self.config()
        absent = (8 if config.rank.use_peft else 12) * trainable_parameters(self.model, config.rank) + OVERHEAD
        cost = rank_cost(config, Amounts(self.batch, self.length, self.batch))
        flops = sum(token_flops(self.model, config.rank, config.max_length))
        return flops, rank_bytes(self.model, config, cost) - absent

    def weight_bytes(self) -> float:
        """Bytes of the model itself, which are certain."""
        config = self.config()
        return base_bytes(self.model, config) if config.rank.use_peft else 4.0 * self.model.parameters


CHECKPOINTING = {"gradient_checkpointing": True}
LLAMA_8B, LLAMA_70B = (KNOWN[name] for name in MODELS.values())
COUNTED = {
    "8 layers of 512, for real": Counted("8 layers of 512, run", SMALL, 4, 256),
    "the same, checkpointing": Counted("the same, checkpointing", SMALL, 4, 256, CHECKPOINTING),
    "the same, trained whole": Counted("the same, trained in full", SMALL, 4, 256, {"use_peft": False}),
    "8B": Counted("8B", LLAMA_8B, 4, 512),
    "8B, checkpointing": Counted("8B, checkpointing", LLAMA_8B, 4, 2048, CHECKPOINTING),
    "8B, adapters everywhere": Counted("8B, all-linear", LLAMA_8B, 4, 512, {"lora_target_modules": "all-linear"}),
    "70B, checkpointing": Counted("70B, checkpointing", LLAMA_70B, 4, 2048, CHECKPOINTING),
}
"""By their names in the results file."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", action="store_true", help="count FLOPs and bytes, and write --output")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/scale.md")
    parser.add_argument("--output", type=Path, default=RESULTS / "plan.json")
    parser.add_argument("--host-bytes", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.host_bytes:
        print(host_bytes_per_row())
        return
    if args.count:
        report = {"counted": count_all(), "bytes_a_row": run_child(__file__, "--host-bytes")}  # no memory is reused
        write_report(report | provenance(args, hidden=("host_bytes",)), args.output)
    if args.write:
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print("\n\n".join(tables().values()))


# -- counting ----------------------------------------------------------------------------------------------------------


def count_all() -> dict[str, dict[str, float]]:
    from benchmarks.lib.operation_counter import count

    found = {}
    for name, counted in COUNTED.items():
        flops, held = count(counted.model, counted.config(), fake=counted.model is not SMALL)
        found[name] = {"operations_per_token": flops, "bytes": held}
        print(name, found[name], file=sys.stderr, flush=True)
    return found


def host_bytes_per_row(n: int = 2_000_000) -> float:
    """Peak host memory per candidate of `seal` with n candidates, from the first step to the scores."""
    import torch

    from benchmarks.lib.process_memory import current_memory, peak_memory
    from benchmarks.lib.tiny_inputs import mapped_rows, two_layer_model
    from sealtune.core.config import RankConfig
    from sealtune.models.adapters import lora_players
    from sealtune.ranking.loop import SealLoop
    from sealtune.ranking.methods.seal import make_update
    from sealtune.ranking.safe_set import PLAYERS
    from sealtune.ranking.selector import FreeLogits

    settings = RankConfig(per_device_train_batch_size=8, algorithm=1)
    held = 0.0
    for rows in (1000, n):  # the first run allocates what is needed only once
        torch.manual_seed(0)
        players = lora_players(two_layer_model(300), settings, PLAYERS[1], seed=0)
        with tempfile.TemporaryDirectory() as folder:
            candidates, safe = mapped_rows(Path(folder, "candidates"), rows), mapped_rows(Path(folder, "safe"), 64)
            before = current_memory()["allocated"]
            with peak_memory() as peak:
                loop = SealLoop(candidates, safe, players, FreeLogits(rows, make_update(settings)), settings, seed=0)
                next(loop.run())
                loop.step = loop.total_steps
                loop.finish(lambda *_: None)
            held = (peak["allocated"] - before) / rows
            del loop
    return held


# -- tables of docs/scale.md -------------------------------------------------------------------------------------------


def tables() -> dict[str, str]:
    """Each table, by the name of its mark in the page."""
    found = {"counted": counted_table(), "engines": strategies_table(), "network": network_table()}
    return {name: markdown(table) for name, table in (found | {"rows": rows_table(), "limits": limits_table()}).items()}


def fill(page: str) -> str:
    """The page with every table between its two marks."""
    for name, table in tables().items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page = marks.sub(lambda m, t=table: f"{m[1]}{t}\n{m[2]}", page)
    return page


def markdown(table: list[list[str]]) -> str:
    head, *rows = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([head, "|---" * len(table[0]) + "|", *rows])


def case(model: str, gpus: int = 8, rows: int = 10**5, **settings: object) -> Case:
    """The paper's recipe on one of the models, with rows of average length."""
    rank = {"method": "seal", "per_device_train_batch_size": 4, **CHECKPOINTING, **settings}
    config = build_config({"model_name_or_path": "-", "dtype": "bfloat16", "max_length": 2048, "rank": rank})
    return Case(KNOWN[MODELS.get(model, model)], config, Amounts(rows, TOKENS, SAFE_ROWS), GPUS["H100"], gpus)


def counted_table() -> list[list[str]]:
    report = json.loads((RESULTS / "plan.json").read_text(encoding="utf-8"))["counted"]
    heads = ["model", "rows x tokens", "FLOPs per token, counted", "formula / counted"]
    table = [[*heads, "bytes in addition to the weights, counted", "formula / counted"]]
    for name, counted in COUNTED.items():
        (flops, held), own = counted.predicted(), counted.weight_bytes()
        found, extra = report[name]["operations_per_token"], report[name]["bytes"] - own
        row = [counted.title, f"{counted.batch} x {counted.length}", f"{found:.3e}", f"{flops / found:.3f}"]
        table.append([*row, size(extra), f"{(held - own) / extra:.2f}"])
    return table


def strategies_table() -> list[list[str]]:
    table = [["strategy", "GPUs", "8B", "8B, no checkpointing", "8B, Algorithm 1", "8B, trained in full", "70B"]]
    variants = [{}, {"gradient_checkpointing": False}, {"algorithm": 1}, {"use_peft": False}]
    for gpus in (8, 64):
        cases = [case("8B", gpus, **variant) for variant in variants] + [case("70B", gpus)]
        memory = [{(name, s.gpus): one.memory(s) for name, one, s in c.strategies()} for c in cases]
        for name, count in memory[0]:
            if count == gpus or gpus == 8:
                cells = [size(found[name, count]) if (name, count) in found else "-" for found in memory]
                table.append([f"`{name}`", str(count), *cells])
    return table


def network_table() -> list[list[str]]:
    table = [["model", "strategy", "GPUs", "losses", "gradients", "weights", "gathering / computing"]]
    for model in MODELS:
        for gpus in (8, 64):
            one = case(model, gpus, gradient_accumulation_steps=2)
            for name in ("multi_gpu", "fsdp2"):
                strategy = Strategy(name, gpus)
                waits = one.network_hours(strategy) / (one.gpu_hours() / gpus)
                table.append([model, f"`{name}`", str(gpus), *map(size, one.network(strategy)), f"{waits:.2f}"])
    return table


def rows_table() -> list[list[str]]:
    methods = {"probe": {"method": "probe"}, "seal, Algorithm 2": {}, "seal, Algorithm 1": {"algorithm": 1}}
    heads = ["rows", "method", "FLOPs, 8B", "H100 hours: 1B", "8B", "70B"]
    table = [[*heads, "memory per process, 8B", "tokens on disk", "scratch files, 8B"]]
    for rows in SIZES:
        for name, settings in methods.items():
            one = case("8B", rows=rows, **settings)
            hours = [case(model, rows=rows, **settings).gpu_hours() for model in (PROXY, "8B", "70B")]
            flops = f"{one.gpu_hours() * 3600 * one.gpu.speed:.1e}"
            cells = [f"{h:,.0f}" if h >= 10 else f"{h:.1f}" for h in hours]
            stored = (one.host_bytes(), one.disk_bytes(), one.scratch_bytes())
            table.append([f"{rows:,}", name, flops, *cells, *map(size, stored)])
    return table


def limits_table() -> list[list[str]]:
    """Each limit once, at the fewest rows that reach it."""
    table, listed = [["model", "from rows", "method", "what gives way", "what to do"]], set()
    for model in MODELS:
        for rows in SIZES:
            for method in ("probe", "seal"):
                for what, knob in limits(case(model, rows=rows, method=method)):
                    kind = model, method, re.sub(r"[\d.,]+( [kMGT]?B)?", "", what)  # whatever the numbers
                    if kind not in listed:
                        listed.add(kind)
                        table.append([model, f"{rows:,}", f"`{method}`", what, knob])
    return table


if __name__ == "__main__":
    main()
