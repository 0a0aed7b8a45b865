"""What ranking takes under each strategy and at each number of rows, what gives way first, and which knob to turn.

docs/scale.md derives the formulas and lists what was checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from sealtune.cli.dimensions import KNOWN, ModelDimensions
from sealtune.cli.estimate import TOKEN_BYTES, Gpu
from sealtune.cli.flops import rank_cost, rank_flops, trainable_parameters
from sealtune.cli.gpu_memory import Strategy, rank_bytes, scratch_bytes, weight_size
from sealtune.core.config import Config
from sealtune.ranking.job import Amounts, Cost
from sealtune.ranking.loop import batch_size

LOSS_BYTES = 8
"""Bytes per loss, which is all that the selector needs of a pass."""

NODE, NODE_LINK, HOST, DISK = 8, 50e9, 1e12, 1e12
"""Assumed machine: GPUs, bytes/s between a GPU and another machine, bytes of memory and of fast disk."""

WEEK = 8 * 7 * 24
"""GPU hours, a week of a machine, from which a smaller model should rank."""

PROXY = "meta-llama/Llama-3.2-1B-Instruct"

REMEDIES: dict[str, dict[str, object]] = {
    "rank.use_peft=true": {"use_peft": True},
    "rank.gradient_checkpointing=true": {"gradient_checkpointing": True},
    "rank.per_device_train_batch_size=1 and more accumulation": {"per_device_train_batch_size": 1},
    "load_in_4bit=true": {"load_in_4bit": True},
}
"""Settings that save GPU memory, the cheapest first."""


class Network(NamedTuple):
    """Bytes that one GPU receives per step."""

    losses: float
    gradients: float
    weights: float


class Limit(NamedTuple):
    """What gives way, and what to do."""

    what: str
    knob: str


@dataclass(frozen=True)
class Case:
    """A model that ranks, its config, the amounts to rank, and the GPUs."""

    model: ModelDimensions
    config: Config
    amounts: Amounts
    gpu: Gpu
    gpus: int = NODE

    @property
    def cost(self) -> Cost:
        """What the ranker states that it takes."""
        return rank_cost(self.config, self.amounts)

    def strategies(self) -> Iterator[tuple[str, Case, Strategy]]:
        """(name, case, strategy) of each way to run it. A 4-bit base and a model trained in full are not sharded."""
        adapters, four_bit = self.config.rank.use_peft, self.config.load_in_4bit
        yield "single_gpu", self, Strategy()
        if adapters and not four_bit:
            yield "single_gpu, load_in_4bit", self.with_config(load_in_4bit=True), Strategy()
        for name in ("multi_gpu", "zero2", "fsdp2", "zero3"):
            strategy = Strategy(name, self.gpus)
            if not strategy.shards_base or (adapters and not four_bit):
                yield name, self, strategy

    def with_config(self, **changes: object) -> Case:
        """The same case with other settings of the config, or of ``rank``."""
        own = {key: value for key, value in changes.items() if key in Config.model_fields}
        rank = self.config.rank.model_copy(update={k: v for k, v in changes.items() if k not in own})
        return replace(self, config=self.config.model_copy(update={**own, "rank": rank}))

    def memory(self, strategy: Strategy) -> float:
        """Bytes on each GPU."""
        return rank_bytes(self.model, self.config, self.cost, strategy)

    def gpu_hours(self) -> float:
        """Hours of all GPUs together, without waiting for the network."""
        return rank_flops(self.model, self.config, self.amounts) / self.gpu.speed / 3600

    def network_hours(self, strategy: Strategy) -> float:
        """Hours of gathering the layers in every pass of a micro-batch; other traffic is small in comparison."""
        passes = (self.cost.forward + self.cost.backward) / self.config.rank.per_device_train_batch_size / strategy.gpus
        link = self.gpu.link if strategy.gpus <= NODE else NODE_LINK
        return passes * self._gathered_bytes(strategy) / link / 3600

    def network(self, strategy: Strategy) -> Network:
        """Bytes per step of the SEAL loop: theta is trained on safe rows, every player on the candidates."""
        ring, settings, cost = 2 * (strategy.gpus - 1) / strategy.gpus, self.config.rank, self.cost
        passes = 1 + cost.players
        losses = LOSS_BYTES * passes * batch_size(settings) * strategy.gpus
        gradients = 4.0 * cost.players * trainable_parameters(self.model, settings)
        gathers = 2 * settings.gradient_accumulation_steps * passes  # forward and backward
        return Network(ring * losses, ring * gradients, gathers * self._gathered_bytes(strategy))

    def _gathered_bytes(self, strategy: Strategy) -> float:
        """Bytes of layers that a GPU fetches from the others for one pass."""
        if not strategy.shards_base:
            return 0.0
        return self.model.linear * weight_size(self.config) * (strategy.gpus - 1) / strategy.gpus

    def host_bytes(self) -> float:
        """Memory of each process that grows with the rows, without ids and tokens."""
        return self.cost.host_bytes * self.amounts.rows

    def disk_bytes(self) -> float:
        """The rows as tokens."""
        return TOKEN_BYTES * self.amounts.tokens * self.amounts.rows

    def scratch_bytes(self) -> float:
        """Scratch files of all processes of a machine while they rank."""
        return scratch_bytes(self.model, self.cost) * self.amounts.rows * self.processes

    @property
    def processes(self) -> int:
        """Processes per machine."""
        return min(self.gpus, NODE)


def limits(case: Case) -> list[Limit]:
    """What does not fit or takes too long, in the order in which a user runs into it."""
    checks = (_gpu_memory, _scratch_files, _hours, _disk, _host_memory, _network)
    return [limit for check in checks if (limit := check(case))]


def _gpu_memory(case: Case) -> Limit | None:
    """Several GPUs, or the first of the remedies with which one is enough."""
    need, room = case.memory(Strategy()), case.gpu.memory
    if need <= room:
        return None
    sharded = {strategy: one.memory(strategy) for _, one, strategy in case.strategies() if strategy.shards_base}
    knobs = [f"{s.name} on {s.gpus} GPUs ({size(one)} each)" for s, one in sharded.items() if one <= room]
    for settings, other in _savings(case):
        if other.memory(Strategy()) <= room:
            knobs.append(f"{settings} ({size(other.memory(Strategy()))})")
            break
    what = f"{size(need)} on one GPU of {size(room)}"
    return Limit(what, "; or ".join(knobs or ["a lower max_length, more GPUs, or a smaller ranking model"]))


def _savings(case: Case) -> Iterator[tuple[str, Case]]:
    """Settings, and the case with them: each remedy alone, then more and more remedies together."""
    names = [name for name, change in REMEDIES.items() if case.with_config(**change) != case]
    for chosen in [*([name] for name in names), *(names[:count] for count in range(2, len(names) + 1))]:
        changes = {key: value for name in chosen for key, value in REMEDIES[name].items()}
        yield ", ".join(chosen), case.with_config(**changes)


def _scratch_files(case: Case) -> Limit | None:
    if case.scratch_bytes() <= DISK:
        return None
    sample = 10 ** int(math.log10(DISK * case.amounts.rows / case.scratch_bytes()))
    knob = f"rank a sample of {sample:,} rows, `sealtune score` the rest in files of that size"
    return Limit(f"{size(case.scratch_bytes())} of hidden states in scratch files per machine", knob)


def _hours(case: Case) -> Limit | None:
    """Cheaper alternatives, each on its own."""
    hours = case.gpu_hours()
    ways = {"rank.method=probe": case.with_config(method="probe")}
    if KNOWN[PROXY].parameters < case.model.parameters / 4:
        ways = {f"rank.model_name_or_path={PROXY}": replace(case, model=KNOWN[PROXY])} | ways
    found = {name: other.gpu_hours() for name, other in ways.items()}
    knobs = [f"{name} ({cost:,.0f})" for name, cost in found.items() if cost < hours / 2]
    return Limit(f"{hours:,.0f} GPU hours", "; ".join([*knobs, "a lower max_length"])) if hours > WEEK else None


def _disk(case: Case) -> Limit | None:
    tokens = case.disk_bytes()
    return Limit(f"{size(tokens)} of tokens", "a larger disk, or a lower max_length") if tokens > DISK else None


def _host_memory(case: Case) -> Limit | None:
    if case.host_bytes() * case.processes <= HOST / 2:
        return None
    what = f"{size(case.host_bytes())} of memory in each of {case.processes} processes per machine"
    return Limit(what, "fewer processes per machine")


def _network(case: Case) -> Limit | None:
    strategy = Strategy("fsdp2", case.gpus)
    if case.memory(Strategy()) <= case.gpu.memory or strategy not in [s for _, _, s in case.strategies()]:
        return None  # sharding is not needed, or not possible
    waits = case.network_hours(strategy) / max(case.gpu_hours() / case.gpus, 1e-12)
    what = f"gathering the weights takes {waits:.1f} times as long as computing"
    return Limit(what, "a larger rank.per_device_train_batch_size") if waits > 1 else None


def size(count: float) -> str:
    """Bytes with a unit, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB" if count < 999.5 else f"{count:,.0f} TB"
