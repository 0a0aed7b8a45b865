"""What a config needs: GPU memory, disk and hours, estimated from its numbers alone. Nothing is loaded or measured.

Every figure is arithmetic on the config and the model's sizes, for one GPU; each function has its formula. For memory
rows are as long as ``max_length``; for time as they are, where they can be counted. The hours are as good as the
assumed speed, which is printed: put them in proportion once a first run has told yours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sealtune.config import Config, DatasetConfig, LoraBlock, RankConfig
from sealtune.evaluation.prompt_sets import PROMPT_SETS
from sealtune.shapes import Shape, read_shape

FLOPS = 200e12
"""Assumed speed: one H100 in bfloat16 at a fifth of its peak, as adapters and small micro-batches leave it."""
BANDWIDTH = 2e12
"""Assumed bytes a second that generating reads, of the 3.35e12 of an H100."""
ROWS, TOKENS, PROMPTS = 10_000, 400, 500
"""Assumed rows of a data set that is not there yet, tokens of such a row, and prompts of such a set."""
OVERHEAD = 2**30
"""The GPU's own context and the libraries' workspace."""
METHOD_EPOCHS = {"random": 0.0, "dsir": 0.0, "moderation": 0.0, "loss": 0.33, "embedding": 0.33, "gradient": 1.0}
METHOD_EPOCHS |= {"shared": 1.1, "excess_loss": 1.25}
"""Cost of rankers that are not SEAL, in epochs of plain fine-tuning over the candidates (docs/ranking.md)."""


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


def estimate(config: Config, rows: int | None = None) -> Needs:
    """What the five stages of a config need.

    Args:
        config: the config.
        rows: how many candidates there are, where their files are not there yet.

    Raises:
        UserError: the model's sizes are not known.
    """
    shape = read_shape(config)
    count, tokens, notes = _count(config, rows)
    return Needs(
        shape,
        {"rank": rank_bytes(shape, config), "tune": tune_bytes(shape, config), "evaluate": ask_bytes(shape, config)},
        disk_bytes(shape, config),
        hours(shape, config, count, tokens),
        (*notes, f"{FLOPS / 1e12:.0f} TFLOP/s, {BANDWIDTH / 1e12:.0f} TB/s; judges and fetching are not counted"),
    )


# -- GPU memory --------------------------------------------------------------------------------------------------------


def weight_size(config: Config) -> int:
    """Bytes of a weight: 2, or 4 with float32; ``auto`` is taken for bfloat16, as on a GPU."""
    return 4 if config.dtype == "float32" else 2


def base_bytes(shape: Shape, config: Config) -> float:
    """The frozen model: parameters times bytes; with ``load_in_4bit`` its layers at half a byte and 4 % of scales."""
    size = weight_size(config)
    return shape.embedding * size + shape.linear * (0.52 if config.load_in_4bit else size)


def trained(shape: Shape, block: LoraBlock) -> int:
    """Weights that learn: all, or layers x r x (inputs + outputs) of each matrix with an adapter."""
    if not block.use_peft:
        return shape.parameters
    names = list(shape.modules) if block.lora_target_modules == "all-linear" else block.lora_target_modules
    return sum(shape.layers * block.lora_r * sum(shape.modules.get(name, (shape.hidden,) * 2)) for name in names)


def learning_bytes(shape: Shape, config: Config, block: LoraBlock, players: int = 1) -> float:
    """Weights, gradients, optimizer and activations of training.

    A trained weight takes 16 bytes: itself, its gradient and AdamW's two moments, each in float32. Adapters lie on one
    frozen base; a model trained whole has none, but autocast keeps a copy of its weights in ``dtype``.
    """
    copies = base_bytes(shape, config) if block.use_peft else shape.parameters * weight_size(config)
    return copies + 16.0 * players * trained(shape, block) + activation_bytes(shape, config, block) + OVERHEAD


def activation_bytes(shape: Shape, config: Config, block: LoraBlock) -> float:
    """What the backward pass needs, for one micro-batch of rows as long as ``max_length``.

    A layer keeps, a token, 4 hidden states, queries, keys, values and the attention's output, 4 times the inner size,
    and two hidden states in float32 (the norms). With checkpointing one layer does, and of the others their inputs.
    """
    q, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    size = weight_size(config)
    layer = size * (4 * shape.hidden + 2 * q + 2 * kv + 4 * shape.inner) + 8 * shape.hidden
    tokens = block.per_device_train_batch_size * config.max_length
    if block.gradient_checkpointing:
        return float(tokens * (layer + shape.layers * size * shape.hidden))
    return float(tokens * shape.layers * layer)


def rank_bytes(shape: Shape, config: Config) -> float:
    """Learning, with one or (Algorithm 1) two players, and 12 bytes for each logit of a chunk of the vocabulary."""
    from sealtune.losses import CHUNK_LOGITS

    if METHOD_EPOCHS.get(config.rank.method) == 0:
        return 0.0
    shape = _that_ranks(shape, config)
    return learning_bytes(shape, config, config.rank, _players(config.rank)) + 12.0 * CHUNK_LOGITS


def tune_bytes(shape: Shape, config: Config) -> float:
    """Learning, and 12 bytes for each logit of a whole micro-batch: newer trainers, by chunks, need less."""
    tokens = config.tune.per_device_train_batch_size * config.max_length
    return learning_bytes(shape, config, config.tune) + 12.0 * tokens * shape.vocabulary


def ask_bytes(shape: Shape, config: Config) -> float:
    """The model, and keys and values of a batch: 2 x layers x kv heads x head size a token of prompt and answer."""
    asked = config.evaluate
    length = asked.max_prompt_length + asked.max_new_tokens
    cache = 2.0 * shape.layers * shape.kv_heads * shape.head_size * weight_size(config) * asked.batch_size * length
    return base_bytes(shape, config) + cache + OVERHEAD


# -- disk and time -----------------------------------------------------------------------------------------------------


def disk_bytes(shape: Shape, config: Config) -> dict[str, float]:
    """The model as fetched (2 bytes a weight), checkpoints (weights and moments in float32), the outcome, the rows."""
    from sealtune.checkpoints import CHECKPOINTS_KEPT

    whole = config.tune.merge or not config.tune.use_peft
    resumable = config.rank.method in ("seal", "seal_released", "shared")
    ranking = _players(config.rank) * trained(_that_ranks(shape, config), config.rank) if resumable else 0
    learns = max(ranking, trained(shape, config.tune))  # those of the ranking are gone when the tuning begins
    files = [Path(data.path) for data in config.datasets if Path(data.path).is_file()]
    return {
        "the model": 0.0 if Path(config.model_name_or_path).exists() else 2.0 * shape.parameters,
        "checkpoints": 12.0 * (CHECKPOINTS_KEPT + 1) * learns,  # a new one before an old goes
        "the tuned model": float(shape.parameters * weight_size(config) if whole else 4 * trained(shape, config.tune)),
        "rows kept and dropped": float(sum(file.stat().st_size for file in files)),
    }


def hours(shape: Shape, config: Config, rows: int, tokens: float) -> dict[str, float]:
    """Hours of ranking, tuning and answering, at FLOPS and BANDWIDTH.

    A pass over a token takes 2 operations a weight forward; backward 4, or 2 where only adapters learn; 2 more where
    activations are made anew. The input embedding is no multiplication. Answering reads all weights once a token.
    """
    kept = rows * (config.select.keep_ratio if isinstance(config.select.keep_ratio, float | int) else 1.0)
    tune = kept * tokens * config.tune.num_train_epochs * sum(_passes(shape, config.tune))
    steps = -(-_prompts(config) // config.evaluate.batch_size) * config.evaluate.max_new_tokens
    answers = (2 if config.evaluate.base else 1) * steps * base_bytes(shape, config) / BANDWIDTH
    rank = rows * tokens * rank_operations(_that_ranks(shape, config), config)
    return {"rank": rank / FLOPS / 3600, "tune": tune / FLOPS / 3600, "evaluate": answers / 3600}


def rank_operations(shape: Shape, config: Config) -> float:
    """Operations of ranking for each token of the candidates.

    SEAL goes, an epoch, over the candidates (backward only where gamma is not 0) and over as many safe rows as its
    batches hold; Algorithm 1 once more over the candidates. Other methods cost their METHOD_EPOCHS.
    """
    from sealtune.bilevel import gamma_at

    settings = config.rank
    forward, backward = _passes(shape, settings)
    if settings.method not in ("seal", "seal_released"):
        return METHOD_EPOCHS.get(settings.method, METHOD_EPOCHS["shared"]) * (forward + backward)
    batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    always = (settings.safe_batch_size or batch) / batch
    always += _players(settings) - 1
    gammas = [gamma_at(epoch, settings.gamma, settings.gamma_schedule) for epoch in range(settings.num_train_epochs)]
    return sum(always * (forward + backward) + forward + (backward if gamma else 0) for gamma in gammas)


def _that_ranks(shape: Shape, config: Config) -> Shape:
    """The sizes of the model that ranks."""
    return shape if config.ranking is config else read_shape(config.ranking)


def _players(settings: RankConfig) -> int:
    """Two in Algorithm 1."""
    return 2 if settings.method == "seal" and settings.algorithm == 1 else 1


def _passes(shape: Shape, block: LoraBlock) -> tuple[float, float]:
    """Operations of a forward and of a backward pass over one token."""
    weights = shape.linear + shape.vocabulary * shape.hidden
    backward = (2 if block.use_peft else 4) + (2 if block.gradient_checkpointing else 0)
    return 2.0 * weights, float(backward * weights)


# -- what is known of the data -----------------------------------------------------------------------------------------


def _count(config: Config, rows: int | None) -> tuple[int, float, list[str]]:
    """Candidates, tokens of each, and what was assumed of them."""
    found = [_rows_of(data) for data in config.datasets]
    if rows is None and found and all(count is not None for count, _ in found):
        total = sum(count or 0 for count, _ in found)
        size = sum(size for _, size in found)
        tokens = min(config.max_length, size / max(total, 1) / 4)
        return total, tokens, [f"{total:,} candidates as counted, 4 bytes a token: {tokens:.0f} tokens each"]
    tokens = min(config.max_length, TOKENS)
    told = "as told" if rows else "until the files are there (--rows tells)"
    return rows or ROWS, tokens, [f"{rows or ROWS:,} candidates {told}, {tokens} tokens each"]


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
