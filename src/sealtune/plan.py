"""What ranking takes on each engine and at each number of rows, what gives way first, and the knob to turn.

For ``sealtune env --plan`` and for the tables of docs/scale.md, which derives the formulas and says what was checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from sealtune.config import Config
from sealtune.memory import Engine, rank_bytes, row_bytes, scratch_bytes, weight_size
from sealtune.needs import TOKEN, Gpu
from sealtune.operations import Amounts, batch_size, players, rank_operations, rank_work, trained
from sealtune.shapes import KNOWN, Shape

LOSS = 8
"""Bytes of a row's loss, which is all that the selector needs of a pass."""
NODE, NODE_LINK, HOST, DISK = 8, 50e9, 1e12, 1e12
"""Assumed of a machine: GPUs, bytes a second from one of them to another machine, bytes of memory and of fast disk."""
WEEK = 8 * 7 * 24
"""GPU hours from which a smaller model should rank: a machine for a week."""
PROXY = "meta-llama/Llama-3.2-1B-Instruct"
SIZES = [10**power for power in range(5, 10)]


REMEDIES: dict[str, dict[str, object]] = {
    "rank.use_peft=true": {"use_peft": True},
    "rank.gradient_checkpointing=true": {"gradient_checkpointing": True},
    "rank.per_device_train_batch_size=1 and more accumulation": {"per_device_train_batch_size": 1},
    "load_in_4bit=true": {"load_in_4bit": True},
}
"""What saves memory of a GPU, the cheapest first."""


class Network(NamedTuple):
    """Bytes that one GPU receives in a step."""

    losses: float
    gradients: float
    weights: float


class Limit(NamedTuple):
    """What gives way, and what to do."""

    what: str
    knob: str


@dataclass(frozen=True)
class Case:
    """A model that ranks, its config, what there is to rank, and the GPUs."""

    shape: Shape
    config: Config
    amounts: Amounts
    gpu: Gpu
    gpus: int = NODE

    def engines(self) -> Iterator[tuple[str, Case, Engine]]:
        """(name, the case, the engine) of each way that can run it: what is spread is neither 4-bit nor trained."""
        adapters, four_bit = self.config.rank.use_peft, self.config.load_in_4bit
        yield "single_gpu", self, Engine()
        if adapters and not four_bit:
            yield "single_gpu, load_in_4bit", self.with_config(load_in_4bit=True), Engine()
        for name in ("multi_gpu", "zero2", "fsdp2", "zero3"):
            engine = Engine(name, self.gpus)
            if not engine.spreads_base or (adapters and not four_bit):
                yield name, self, engine

    def with_config(self, **changes: object) -> Case:
        """The same with another setting of the config, or of ``rank``."""
        own = {key: value for key, value in changes.items() if key in Config.model_fields}
        rank = self.config.rank.model_copy(update={k: v for k, v in changes.items() if k not in own})
        return replace(self, config=self.config.model_copy(update={**own, "rank": rank}))

    def with_rows(self, rows: int) -> Case:
        """The same with so many candidates."""
        return replace(self, amounts=self.amounts._replace(rows=rows))

    def memory(self, engine: Engine) -> float:
        """Bytes on each GPU."""
        return rank_bytes(self.shape, self.config, engine)

    def gpu_hours(self) -> float:
        """Of all GPUs together, where none waits for the network."""
        return rank_operations(self.shape, self.config, self.amounts) / self.gpu.speed / 3600

    def hours(self, engine: Engine) -> float:
        """From beginning to end: products, or the network where that takes longer (it works beside them)."""
        return max(self.gpu_hours() / engine.gpus, self.network_hours(engine))

    def network_hours(self, engine: Engine) -> float:
        """Of gathering the blocks in every pass of a micro-batch; the rest is small beside it."""
        passes = sum(rank_work(self.config, self.amounts)) / self.config.rank.per_device_train_batch_size / engine.gpus
        link = self.gpu.link if engine.gpus <= NODE else NODE_LINK
        return passes * _gathered(self, engine) / link / 3600

    def network(self, engine: Engine) -> Network:
        """Of a step in which the players learn: from candidates and as many safe rows, or from safe rows alone."""
        others, settings = (engine.gpus - 1) / engine.gpus, self.config.rank
        passes = 1 + (players(settings) if settings.method.startswith("seal") else 0)
        losses = LOSS * passes * batch_size(settings) * engine.gpus
        gradients = 4.0 * players(settings) * trained(self.shape, settings)
        gathers = 2 * settings.gradient_accumulation_steps * passes  # forward and backward
        return Network(2 * others * losses, 2 * others * gradients, gathers * _gathered(self, engine))

    def host_bytes(self) -> float:
        """Memory of each process for what grows with the rows, ids and tokens apart."""
        return row_bytes(self.shape, self.config, self.gpus) * self.amounts.rows

    def disk_bytes(self) -> float:
        """The rows as tokens."""
        return TOKEN * self.amounts.tokens * self.amounts.rows

    def scratch_bytes(self) -> float:
        """Scratch files of the processes of a machine while they rank."""
        return scratch_bytes(self.shape, self.config) * self.amounts.rows * min(self.gpus, NODE)


def _gathered(case: Case, engine: Engine) -> float:
    """Bytes of blocks that a GPU fetches from the others for one pass."""
    if not engine.spreads_base:
        return 0.0
    return case.shape.linear * weight_size(case.config) * (engine.gpus - 1) / engine.gpus


# -- what gives way ----------------------------------------------------------------------------------------------------


def limits(case: Case) -> list[Limit]:
    """What does not fit or takes too long, in the order in which one meets it."""
    found = [_gpu_memory(case), _states(case), _hours(case), _disk(case), _selector(case), _network(case)]
    return [limit for limit in found if limit]


def _gpu_memory(case: Case) -> Limit | None:
    """Several GPUs, or the first of the remedies with which one is enough."""
    need, room = case.memory(Engine()), case.gpu.memory
    if need <= room:
        return None
    each = {engine: one.memory(engine) for _, one, engine in case.engines() if engine.spreads_base}
    knobs = [f"{engine.name} on {engine.gpus} GPUs ({size(one)} each)" for engine, one in each.items() if one <= room]
    for turned, other in _saving(case):
        if other.memory(Engine()) <= room:
            knobs.append(f"{turned} ({size(other.memory(Engine()))})")
            break
    what = f"{size(need)} on one GPU of {size(room)}"
    return Limit(what, "; or ".join(knobs or ["a lower max_length, more GPUs, or a smaller model that ranks"]))


def _saving(case: Case) -> Iterator[tuple[str, Case]]:
    """What may be turned, and the case after it: each remedy alone, then more and more of them together."""
    names = [name for name, change in REMEDIES.items() if case.with_config(**change) != case]
    for turned in [*([name] for name in names), *(names[:count] for count in range(2, len(names) + 1))]:
        changes = {key: value for name in turned for key, value in REMEDIES[name].items()}
        yield ", ".join(turned), case.with_config(**changes)


def _states(case: Case) -> Limit | None:
    if case.scratch_bytes() <= DISK:
        return None
    sample = 10 ** int(math.log10(DISK * case.amounts.rows / case.scratch_bytes()))
    knob = f"rank a sample of {sample:,} rows, `sealtune score` the rest in files of that many"
    return Limit(f"{size(case.scratch_bytes())} of hidden states in scratch files of a machine", knob)


def _hours(case: Case) -> Limit | None:
    """Cheaper ways, each by itself."""
    hours = case.gpu_hours()
    ways = {"rank.method=shared": case.with_config(method="shared")}
    if KNOWN[PROXY].parameters < case.shape.parameters / 4:
        ways = {f"rank.model_name_or_path={PROXY}": replace(case, shape=KNOWN[PROXY])} | ways
    found = {name: other.gpu_hours() for name, other in ways.items()}
    knobs = [f"{name} ({cost:,.0f})" for name, cost in found.items() if cost < hours / 2]
    return Limit(f"{hours:,.0f} GPU hours", "; ".join([*knobs, "a lower max_length"])) if hours > WEEK else None


def _disk(case: Case) -> Limit | None:
    tokens = case.disk_bytes()
    return Limit(f"{size(tokens)} of tokens", "a larger disk, or a lower max_length") if tokens > DISK else None


def _selector(case: Case) -> Limit | None:
    processes = min(case.gpus, NODE)
    if not case.config.rank.method.startswith("seal") or case.host_bytes() * processes <= HOST / 2:
        return None
    split = size(case.with_config(shard_selector=True).host_bytes())
    what = f"{size(case.host_bytes())} of selector and scores in each of {processes} processes of a machine"
    return Limit(what, f"rank.shard_selector=true ({split}), or fewer processes a machine")


def _network(case: Case) -> Limit | None:
    engine = Engine("fsdp2", case.gpus)
    if case.memory(Engine()) <= case.gpu.memory or engine not in [engine for _, _, engine in case.engines()]:
        return None  # no need, or no way, to spread the weights
    waits = case.network_hours(engine) / max(case.gpu_hours() / case.gpus, 1e-12)
    what = f"gathering the weights takes {waits:.1f} times as long as computing"
    return Limit(what, "a larger rank.per_device_train_batch_size") if waits > 1 else None


# -- tables ------------------------------------------------------------------------------------------------------------


def engine_table(case: Case) -> list[list[str]]:
    """A line an engine: memory of a GPU, whether it fits, network of a step, hours."""
    table = [["engine", "GPUs", "memory a GPU", "fits", "network a step", "hours"]]
    for name, one, engine in case.engines():
        need = one.memory(engine)
        fits = "yes" if need <= case.gpu.memory else "no"
        row = [name, str(engine.gpus), size(need), fits, size(sum(one.network(engine)))]
        table.append([*row, f"{one.hours(engine):,.1f}"])
    return table


def rows_table(case: Case, sizes: Sequence[int] = SIZES) -> list[list[str]]:
    """A line a number of rows: operations, GPU hours, host memory of a process, tokens on disk."""
    table = [["rows", "operations", "GPU hours", "memory a process", "tokens on disk", "scratch files"]]
    for rows in sizes:
        one = case.with_rows(rows)
        work = rank_operations(one.shape, one.config, one.amounts)
        row = [f"{rows:,}", f"{work:.1e}", f"{one.gpu_hours():,.1f}", size(one.host_bytes())]
        table.append([*row, size(one.disk_bytes()), size(one.scratch_bytes())])
    return table


def lines(case: Case) -> list[str]:
    """The plan of a case, for people."""
    told = f"plan of ranking: {case.config.rank.method}, {case.shape.parameters / 1e9:.2f} billion parameters"
    head = f"{told}, {case.amounts.rows:,} rows of {case.amounts.tokens:.0f} tokens, {case.gpu.name}"
    found = [f"  {limit.what}: {limit.knob}" for limit in limits(case)] or ["  nothing at this size"]
    return [head, *_aligned(engine_table(case)), "", *_aligned(rows_table(case)), "", "what gives way first:", *found]


def _aligned(table: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]


def size(count: float) -> str:
    """Bytes for people, in powers of a thousand."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB" if count < 999.5 else f"{count:,.0f} TB"
