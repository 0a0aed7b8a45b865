"""What a config needs: GPU memory, disk and hours, estimated from its numbers alone. Nothing is loaded or measured.

Every figure is arithmetic on the config and the model's sizes, for one GPU; the formulas stand in ``operations`` and
``memory``, and docs/scale.md derives and checks them. For memory rows are as long as ``max_length``; for time as they
are, where they can be counted. The hours are as good as the assumed speed, which is printed: put them in proportion
once a first run has told yours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sealtune.cli.dimensions import Shape, read_shape
from sealtune.cli.flops import rank_cost, rank_operations, trained, tune_operations
from sealtune.cli.gpu_memory import ask_bytes, base_bytes, rank_bytes, tune_bytes, weight_size
from sealtune.core.config import Config, DatasetConfig
from sealtune.evaluation.prompt_sets import PROMPT_SETS
from sealtune.ranking.job import Amounts


class Gpu(NamedTuple):
    """What its maker says: dense bfloat16 operations a second, bytes of memory, bytes a second of memory and link."""

    name: str
    peak: float
    memory: float
    bandwidth: float
    link: float

    @property
    def speed(self) -> float:
        """Operations a second that are assumed."""
        return UTILISATION * self.peak


UTILISATION = 0.3
"""Assumed share of the peak: not measured by us on a GPU (docs/scale.md says what it rests on)."""
GPUS = {
    "A100": Gpu("A100", 312e12, 80e9, 2.0e12, 300e9),
    "H100": Gpu("H100", 989e12, 80e9, 3.35e12, 450e9),
    "H200": Gpu("H200", 989e12, 141e9, 4.8e12, 450e9),
}
"""With the SXM socket; the link is NVLink's, one way."""
TOKEN, STORED_ROW = 5, 70
"""Bytes on disk of a token (its number, and whether it is learned) and of what is kept beside the text of a row."""
READING = 0.6
"""Assumed share of the memory's bandwidth while answers are generated."""
ROWS, SAFE_ROWS, TOKENS, PROMPTS = 10_000, 10_000, 400, 500
"""Assumed rows of sets that are not there yet (of the safe set no more than candidates), tokens of a row, prompts."""


@dataclass(frozen=True, slots=True)
class Needs:
    """GPU bytes and hours by stage, disk bytes by what fills it, and what was assumed."""

    shape: Shape
    gpu: Mapping[str, float]
    disk: Mapping[str, float]
    hours: Mapping[str, float]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """A small table for people."""
        gib = 2**30
        table = [f"estimate, not a measurement; {self.shape.parameters / 1e9:.2f} billion parameters, one GPU"]
        table += [f"  GPU memory, {stage:22} {size / gib:8.1f} GiB" for stage, size in self.gpu.items()]
        table += [f"  disk, {what:28} {size / gib:8.1f} GiB" for what, size in self.disk.items()]
        table += [f"  time, {stage:28} {hours:8.1f} hours" for stage, hours in self.hours.items()]
        totals = max(self.gpu.values()) / gib, sum(self.disk.values()) / gib, sum(self.hours.values())
        table.append("  in all: {:.0f} GiB of GPU memory, {:.0f} GiB of disk, {:.1f} hours".format(*totals))
        return [*table, *(f"  assumed: {note}" for note in self.notes)]


def estimate(config: Config, rows: int | None = None, gpu: Gpu = GPUS["H100"]) -> Needs:
    """What the five stages of a config need.

    Args:
        config: the config.
        rows: how many candidates there are, where their files are not there yet.
        gpu: on which the hours are.

    Raises:
        UserError: the model's sizes are not known.
    """
    shape = read_shape(config)
    amounts, notes = count(config, rows)
    return Needs(
        shape,
        {
            "rank": rank_bytes(that_ranks(shape, config), config, rank_cost(config, amounts)),
            "tune": tune_bytes(shape, config),
            "evaluate": ask_bytes(shape, config),
        },
        disk_bytes(shape, config, amounts),
        hours(shape, config, amounts, gpu),
        (*notes, f"{assumed_speed(gpu)}; judges and fetching are not counted"),
    )


# -- disk and time -----------------------------------------------------------------------------------------------------


def disk_bytes(shape: Shape, config: Config, amounts: Amounts) -> dict[str, float]:
    """The model as fetched (2 bytes a weight), checkpoints (weights and moments in float32), the outcome, the rows: as
    they were read, each beside its conversation, as tokens, and once more as kept and dropped.
    """
    from sealtune.core.checkpoints import SAVE_TOTAL_LIMIT

    whole = config.tune.merge or not config.tune.use_peft
    cost = rank_cost(config, amounts)
    ranking = cost.players * trained(that_ranks(shape, config), config.rank) if cost.resumable else 0
    learns = max(ranking, trained(shape, config.tune))  # those of the ranking are gone when the tuning begins
    kept, safe = (_bytes_of(sets) for sets in (config.datasets, config.safe_datasets))
    rows = amounts.rows + amounts.safe_rows
    return {
        "the model": 0.0 if Path(config.model_name_or_path).exists() else 2.0 * shape.parameters,
        "checkpoints": 12.0 * (SAVE_TOTAL_LIMIT + 1) * learns,  # a new one before an old goes
        "the tuned model": float(shape.parameters * weight_size(config) if whole else 4 * trained(shape, config.tune)),
        "rows as read": 2.0 * (kept + safe) + STORED_ROW * rows,
        "rows as tokens": TOKEN * amounts.tokens * rows,
        "rows kept and dropped": kept,
    }


def _bytes_of(sets: Sequence[DatasetConfig]) -> float:
    """Bytes of the files that are here."""
    return float(sum(Path(data.path).stat().st_size for data in sets if Path(data.path).is_file()))


def hours(shape: Shape, config: Config, amounts: Amounts, gpu: Gpu) -> dict[str, float]:
    """Hours of ranking, tuning and answering on one GPU. Answering reads all weights once a token."""
    steps = -(-_prompts(config) // config.evaluate.batch_size) * config.evaluate.max_new_tokens
    answers = (2 if config.evaluate.base else 1) * steps * base_bytes(shape, config) / (READING * gpu.bandwidth)
    rank = rank_operations(that_ranks(shape, config), config, amounts) / gpu.speed
    tune = tune_operations(shape, config, amounts) / gpu.speed
    return {"rank": rank / 3600, "tune": tune / 3600, "evaluate": answers / 3600}


def that_ranks(shape: Shape, config: Config) -> Shape:
    """The sizes of the model that ranks."""
    return shape if config.ranking is config else read_shape(config.ranking)


def assumed_speed(gpu: Gpu) -> str:
    """What the hours rest on."""
    share = f"{UTILISATION:.0%} of an {gpu.name}'s {gpu.peak / 1e12:.0f}"
    return f"{gpu.speed / 1e12:.0f} TFLOP/s ({share}), {READING * gpu.bandwidth / 1e12:.1f} TB/s"


# -- what is known of the data -----------------------------------------------------------------------------------------


def count(config: Config, rows: int | None = None) -> tuple[Amounts, list[str]]:
    """Candidates, tokens of each and safe rows, and what was assumed of them."""
    told, size = _rows_in(config.datasets)
    if rows is None and told:
        tokens = min(config.max_length, size / told / 4)
        note = f"{told:,} candidates as counted, 4 bytes a token: {tokens:.0f} tokens each"
    else:
        tokens = float(min(config.max_length, TOKENS))
        source = "as told" if rows else "until the files are there (--rows tells)"
        note = f"{rows or ROWS:,} candidates {source}, {tokens:.0f} tokens each"
    candidates = rows or told or ROWS
    safe = _rows_in(config.safe_datasets)[0]
    amounts = Amounts(candidates, tokens, safe or min(candidates, SAFE_ROWS))
    return amounts, [note, f"{amounts.safe_rows:,} safe rows {'as counted' if safe else 'until their files are there'}"]


def _rows_in(sets: Sequence[DatasetConfig]) -> tuple[int, float]:
    """Rows and bytes of local files of lines; 0 where one of them cannot be counted."""
    found = [_rows_of(data) for data in sets]
    if any(count is None for count, _ in found):
        return 0, 0.0
    return sum(count or 0 for count, _ in found), sum(size for _, size in found)


def _rows_of(data: DatasetConfig) -> tuple[int | None, float]:
    """Rows of a local file of lines, and its bytes, each as far as ``fraction`` takes them."""
    path = Path(data.path)
    if not path.is_file() or path.suffix.lower() not in (".jsonl", ".ndjson", ".csv", ".tsv"):
        return None, 0.0
    with path.open("rb") as file:
        lines = sum(1 for line in file if line.strip())
    return round(lines * data.fraction), path.stat().st_size * data.fraction


def _prompts(config: Config) -> int:
    """Prompts to be asked: of public sets as many as they have, of files as counted, or PROMPTS; as limited."""
    total = 0
    for asked in config.evaluate.prompts:
        known = PROMPT_SETS.get(asked.set or "")
        there = known.rows if known else _rows_of(DatasetConfig(path=str(asked.path)))[0] or PROMPTS
        total += min(there, asked.limit or (known.most if known else None) or there)
    return total
