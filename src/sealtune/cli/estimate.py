"""An estimate of the GPU memory, disk space and hours that a config needs. Nothing is loaded or measured.

Every figure is arithmetic on the config and the model's dimensions, for one GPU; ``flops.py`` and ``gpu_memory.py``
give the formulas, docs/scale.md derives and checks them. Memory is for rows of ``max_length`` tokens, time for their
real lengths if the files can be counted. The hours depend on the assumed speed, which is printed: scale them by the
measured speed of a first run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sealtune.cli.dimensions import ModelDimensions, read_dimensions
from sealtune.cli.flops import rank_cost, rank_flops, trainable_parameters, tune_flops
from sealtune.cli.gpu_memory import base_bytes, generation_bytes, rank_bytes, tune_bytes, weight_size
from sealtune.core.config import Config, DatasetConfig
from sealtune.data.sources import local_files
from sealtune.evaluation.prompt_sets import prompt_sets
from sealtune.ranking.job import Amounts

FLOPS_UTILISATION = 0.3
"""Assumed share of the peak FLOP/s; not measured on a GPU (see docs/scale.md)."""
BANDWIDTH_UTILISATION = 0.6
"""Assumed share of the memory bandwidth while generating answers."""
TOKEN_BYTES, ROW_BYTES = 5, 70
"""Disk space per token (its id and loss mask), and per row in addition to its text."""
ROWS, SAFE_ROWS, TOKENS, PROMPTS = 10_000, 10_000, 400, 500
"""Assumed sizes of missing files; TOKENS is per row. The safe set is never assumed larger than the candidates."""
COUNTED = (".jsonl", ".ndjson", ".csv", ".tsv")
"""Types of files with one row per line."""


class Gpu(NamedTuple):
    """The vendor's figures: dense bfloat16 FLOP/s, bytes of memory, bytes/s of memory and of the link."""

    name: str
    peak: float
    memory: float
    bandwidth: float
    link: float

    @property
    def speed(self) -> float:
        """The assumed FLOP/s."""
        return FLOPS_UTILISATION * self.peak


GPUS = {
    "A100": Gpu("A100", 312e12, 80e9, 2.0e12, 300e9),
    "H100": Gpu("H100", 989e12, 80e9, 3.35e12, 450e9),
    "H200": Gpu("H200", 989e12, 141e9, 4.8e12, 450e9),
}
"""SXM versions; the link is NVLink, one way."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """GPU bytes and hours per stage, disk bytes per kind of file, and the assumptions made."""

    model: ModelDimensions
    gpu: Mapping[str, float]
    disk: Mapping[str, float]
    hours: Mapping[str, float]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """A table as lines of text."""
        gib = 2**30
        table = [f"estimate, not a measurement; {self.model.parameters / 1e9:.2f} billion parameters, one GPU"]
        table += [f"  GPU memory, {stage:22} {size / gib:8.1f} GiB" for stage, size in self.gpu.items()]
        table += [f"  disk, {kind:28} {size / gib:8.1f} GiB" for kind, size in self.disk.items()]
        table += [f"  time, {stage:28} {hours:8.1f} hours" for stage, hours in self.hours.items()]
        totals = max(self.gpu.values()) / gib, sum(self.disk.values()) / gib, sum(self.hours.values())
        table.append("  total: {:.0f} GiB of GPU memory, {:.0f} GiB of disk, {:.1f} hours".format(*totals))
        return [*table, *(f"  assumed: {note}" for note in self.notes)]


def estimate(config: Config, rows: int | None = None, gpu: Gpu = GPUS["H100"]) -> Estimate:
    """Estimate what the five stages of a config need.

    Args:
        config: The config.
        rows: The number of candidates; default: counted in their files, if these exist.
        gpu: The GPU for which hours are estimated.

    Raises:
        UserError: The model's dimensions are unknown.
    """
    model, ranking_model = read_dimensions(config), read_dimensions(config.ranking)
    config, shortened = _fit_max_length(config, (model, ranking_model))
    amounts, notes = count_rows(config, rows)
    return Estimate(
        model,
        {
            "rank": rank_bytes(ranking_model, config, rank_cost(config, amounts)),
            "tune": tune_bytes(model, config),
            "evaluate": generation_bytes(model, config),
        },
        _disk_bytes(model, ranking_model, config, amounts),
        _hours(model, ranking_model, config, amounts, gpu),
        (*notes, *shortened, f"{_assumed_speed(gpu)}; judges and downloads are not included"),
    )


def _fit_max_length(config: Config, models: Sequence[ModelDimensions]) -> tuple[Config, list[str]]:
    """The config with the largest ``max_length`` that the models allow, and a note if that is less."""
    allowed = min(model.positions or config.max_length for model in models)
    if config.max_length <= allowed:
        return config, []
    return config.model_copy(update={"max_length": allowed}), [f"max_length {allowed}, the positions of the model"]


# -- disk and time -----------------------------------------------------------------------------------------------------


def _disk_bytes(
    model: ModelDimensions, ranking_model: ModelDimensions, config: Config, amounts: Amounts
) -> dict[str, float]:
    """The downloaded model, checkpoints (weights and two moments in float32), the tuned model, and the rows.

    Rows are stored as read together with their conversation, as tokens, and again as kept and dropped rows.
    """
    from sealtune.core.checkpoints import SAVE_TOTAL_LIMIT

    tuned = trainable_parameters(model, config.tune)
    saves_full_model = config.tune.merge or not config.tune.use_peft
    cost = rank_cost(config, amounts)
    ranked = cost.players * trainable_parameters(ranking_model, config.rank) if cost.resumable else 0
    candidate_bytes, safe_bytes = (_file_bytes(datasets) for datasets in (config.datasets, config.safe_datasets))
    rows = amounts.rows + amounts.safe_rows
    return {
        "the model": 0.0 if Path(config.model_name_or_path).exists() else 2.0 * model.parameters,
        # Before an old checkpoint is deleted, a new one is written; those of ranking are gone before tuning starts.
        "checkpoints": 12.0 * (SAVE_TOTAL_LIMIT + 1) * max(ranked, tuned),
        "the tuned model": float(model.parameters * weight_size(config) if saves_full_model else 4 * tuned),
        "rows as read": 2.0 * (candidate_bytes + safe_bytes) + ROW_BYTES * rows,
        "rows as tokens": TOKEN_BYTES * amounts.tokens * rows,
        "rows kept and dropped": candidate_bytes,
    }


def _file_bytes(datasets: Sequence[DatasetConfig]) -> float:
    """Total size of the files that exist."""
    return float(sum(path.stat().st_size for data in datasets for path in _files(data)))


def _files(data: DatasetConfig) -> list[Path]:
    """The files of a dataset; none if they are not on this machine. Raises UserError if they cannot be read."""
    found = local_files(data) if data.rows is None else None
    return [path for path in found or [] if path.is_file()]


def _hours(
    model: ModelDimensions, ranking_model: ModelDimensions, config: Config, amounts: Amounts, gpu: Gpu
) -> dict[str, float]:
    """Hours of ranking, tuning and generation on one GPU; generation reads all weights once per token of a batch."""
    settings = config.evaluate
    models = 2 if settings.base else 1
    steps = models * -(-_count_prompts(config) // settings.batch_size) * settings.max_new_tokens
    seconds = {
        "rank": rank_flops(ranking_model, config, amounts) / gpu.speed,
        "tune": tune_flops(model, config, amounts) / gpu.speed,
        "evaluate": steps * base_bytes(model, config) / (BANDWIDTH_UTILISATION * gpu.bandwidth),
    }
    return {stage: value / 3600 for stage, value in seconds.items()}


def _assumed_speed(gpu: Gpu) -> str:
    share = f"{FLOPS_UTILISATION:.0%} of an {gpu.name}'s {gpu.peak / 1e12:.0f}"
    return f"{gpu.speed / 1e12:.0f} TFLOP/s ({share}), {BANDWIDTH_UTILISATION * gpu.bandwidth / 1e12:.1f} TB/s"


# -- amounts of data ---------------------------------------------------------------------------------------------------


def count_rows(config: Config, rows: int | None = None) -> tuple[Amounts, list[str]]:
    """The number of candidates, tokens per row and safe rows, and the assumptions made."""
    counted, size = _rows_and_bytes(config.datasets)
    if rows is None and counted:
        tokens = min(config.max_length, size / counted / 4)
        note = f"{counted:,} candidates (counted), {tokens:.0f} tokens per row (4 bytes per token)"
    else:
        tokens = float(min(config.max_length, TOKENS))
        source = "as given" if rows else "files missing; give --rows"
        note = f"{rows or ROWS:,} candidates ({source}), {tokens:.0f} tokens per row"
    candidates = rows or counted or ROWS
    safe, _ = _rows_and_bytes(config.safe_datasets)
    amounts = Amounts(candidates, tokens, safe or min(candidates, SAFE_ROWS))
    return amounts, [note, f"{amounts.safe_rows:,} safe rows ({'counted' if safe else 'files missing'})"]


def _rows_and_bytes(datasets: Sequence[DatasetConfig]) -> tuple[int, float]:
    """Total rows and bytes of local text files; 0 if any of them cannot be counted."""
    found = [_count_rows(data) for data in datasets]
    if any(count is None for count, _ in found):
        return 0, 0.0
    return sum(count or 0 for count, _ in found), sum(size for _, size in found)


def _count_rows(data: DatasetConfig) -> tuple[int | None, float]:
    """Rows and bytes of local text files, both times ``fraction``; (None, 0) if they cannot be counted."""
    files = _files(data)
    if not files or any(path.suffix.lower() not in COUNTED for path in files):
        return None, 0.0
    lines = sum(map(_count_lines, files))
    return round(lines * data.fraction), sum(path.stat().st_size for path in files) * data.fraction


def _count_lines(path: Path) -> int:
    """Lines that are not blank."""
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _count_prompts(config: Config) -> int:
    """The number of prompts, each set limited: public sets by their size, files as counted, otherwise PROMPTS."""
    total = 0
    for prompts in config.evaluate.prompts:
        known = prompt_sets().get(prompts.set or "")
        available = known.rows if known else _count_rows(DatasetConfig(path=str(prompts.path)))[0] or PROMPTS
        total += min(available, prompts.limit or (known.max_prompts if known else None) or available)
    return total
