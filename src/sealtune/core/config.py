"""The configuration: YAML into pydantic models, unknown keys refused with the nearest key named.

Names follow TRL and transformers. The source of every default stands in docs/paper_index.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from sealtune.core.errors import did_you_mean


class Block(BaseModel):
    """A part of the configuration; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), coerce_numbers_to_str=True, allow_inf_nan=False)


class DatasetConfig(Block):
    """Where rows come from: a file, a ``save_to_disk`` folder or a hub id. A bare string is the path."""

    path: str
    name: str | None = Field(None, description="configuration of a hub data set; for a file, its name in the tables")
    split: str = "train"
    columns: dict[str, str] = Field(
        default_factory=dict, description="renames: {prompt: question, response: answer}; the format's name first"
    )
    format: str | None = Field(None, description="row format, e.g. alpaca; found from the columns where absent")
    fraction: float = Field(1.0, gt=0, le=1, description="share of the rows to take, chosen by a hash of the id")
    rows: SkipJsonSchema[list[dict[str, Any]] | None] = Field(
        None, exclude=True, description="the rows themselves, for callers from Python; path is then only their name"
    )

    @model_validator(mode="before")
    @classmethod
    def _path_alone_will_do(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class LoraBlock(Block):
    """What the two training stages have in common."""

    use_peft: bool = True
    lora_r: int = Field(16, ge=1)
    lora_alpha: float = Field(16, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    lora_target_modules: list[str] | Literal["all-linear"] = Field(default_factory=lambda: ["q_proj", "v_proj"])
    learning_rate: float = Field(2e-4, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    per_device_train_batch_size: int = Field(8, ge=1)
    gradient_accumulation_steps: int = Field(1, ge=1)
    gradient_checkpointing: bool = False
    save_steps: int = Field(500, ge=1, description="steps between two checkpoints")


class RankConfig(LoraBlock):
    """How rows are ranked. ``method`` names a file of ``sealtune/rankers``."""

    method: str = "probe"
    model_name_or_path: str | None = Field(
        None, description="a smaller model that ranks in place of the one to be tuned; rows must be usable by both"
    )
    model_revision: str | None = Field(None, description="of rank.model_name_or_path")
    num_train_epochs: int = Field(
        3, ge=1, description="seal: over the candidates; shared: over the safe set at most, if it takes under 64 steps"
    )
    algorithm: Literal[1, 2] = Field(2, description="1: two players and their gap; 2: theta alone and the raw loss")
    weighting: Literal["softmax", "sigmoid"] = "softmax"
    selector_update: Literal["mirror", "adam"] = Field("mirror", description="mirror: sparse and exact; adam: dense")
    selector_learning_rate: float | None = Field(None, gt=0, description="mirror 0.3, adam 0.005 where absent")
    gamma: float = Field(0.03, ge=0, lt=1)
    gamma_schedule: Literal["linear", "constant"] = Field(
        "linear", description="linear: 0, gamma, 2 gamma, ... one value an epoch; constant: gamma throughout"
    )
    safe_batch_size: int | None = Field(None, ge=1, description="rows of the safe set a step; default: the batch size")
    stop_when_stable: float | None = Field(
        None, gt=0, le=1, description="seal: stop after an epoch whose ranking correlates so much with the one before"
    )
    torch_compile: bool = Field(
        False, description="compile the model that ranks: some minutes once, then faster steps; not with a sharded base"
    )
    max_non_finite: float = Field(
        0.01, ge=0, le=0.5, description="share of rows whose loss may be NaN or infinite; they are ranked last"
    )

    @model_validator(mode="after")
    def _gamma_stays_below_one(self) -> RankConfig:
        if self.gamma_schedule == "linear" and self.gamma * (self.num_train_epochs - 1) >= 1:
            raise ValueError("gamma * (num_train_epochs - 1) must stay below 1 with the linear schedule")
        return self


class SelectConfig(Block):
    """What is kept: the top ``keep_ratio``, or everything at or above ``threshold``; the rows of ``mix_datasets`` are added after selection."""

    keep_ratio: float | Literal["auto"] = Field(
        0.8, description="share of the rows to keep; auto: all but the share that is estimated to be unsafe"
    )
    threshold: float | None = None
    mix_datasets: list[DatasetConfig] = Field(default_factory=list)

    @field_validator("keep_ratio", mode="before")
    @classmethod
    def _a_share_or_auto(cls, value: Any) -> Any:
        if value != "auto" and not (isinstance(value, int | float) and 0 < value <= 1):
            raise ValueError("a share in (0, 1] is needed, or auto")
        return value


class TuneConfig(LoraBlock):
    """The final fine-tuning, by TRL's SFTTrainer."""

    num_train_epochs: float = Field(2, gt=0)
    max_steps: int = Field(-1, description="stop after so many steps; -1: after num_train_epochs")
    logging_steps: int = Field(1, ge=1)
    lr_scheduler_type: str = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    report_to: list[str] = Field(default_factory=list)
    merge: bool = Field(False, description="also fold the adapter into the weights and save a whole model")


PROMPT_SETS = (
    "advbench",
    "alpaca_eval",
    "do-not-answer",
    "harmbench",
    "hex-phi",
    "hh-rlhf",
    "jailbreakbench",
    "slimorca",
    "strongreject",
    "xstest",
)
"""Public sets by name; what each is stands in ``sealtune/evaluation/prompt_sets.py``."""


class PromptsConfig(Block):
    """Prompts and what a good model does with them: a file, or a public set by its name. A bare string is the path."""

    path: str | None = Field(None, description="a file, a hub id, or the name of a public set (docs/prompt_sets.md)")
    set: str | None = Field(None, description="public set whose columns the file at path has; without path: the set")
    kind: Literal["harmful", "harmless"] | None = Field(
        None, description="what the prompts of a file are; of a set that has both, which to take"
    )
    name: str | None = Field(None, description="in the tables; default: the file's or the set's name")
    column: str | None = Field(None, description="holds the prompt; default: prompt, or what the set calls it")
    limit: int | None = Field(None, ge=1, description="the first so many prompts, of each kind")

    @model_validator(mode="before")
    @classmethod
    def _a_name_alone_will_do(cls, value: Any) -> Any:
        given = {"path": value} if isinstance(value, str) else value
        if isinstance(given, dict) and given.get("set") is None and given.get("path") in PROMPT_SETS:
            return {**given, "set": given["path"], "path": None}
        return given

    @model_validator(mode="after")
    def _what_it_is_must_be_known(self) -> PromptsConfig:
        if self.path is None and self.set is None:
            raise ValueError(f"path (a file) or set (one of {', '.join(PROMPT_SETS)}) is needed")
        unknown = self.set if self.set not in PROMPT_SETS else None
        if unknown is None and (self.set or self.kind):
            return self
        asked = (unknown or self.path or "").lower()
        hint = did_you_mean(asked, PROMPT_SETS) or f"public sets: {', '.join(PROMPT_SETS)}"
        fault = f"no public set {unknown!r}" if unknown else "kind is needed for a file: harmful or harmless"
        raise ValueError(f"{fault}; {hint}")


class JudgeConfig(Block):
    """One judge of answers; a bare string is its name. ``name`` names a file of ``sealtune/evaluation/judges``.

    A judge that is a model needs ``base_url`` and ``model`` (any server with OpenAI's chat API), or ``model`` alone
    (a folder or hub id, run here).
    """

    name: str
    base_url: str | None = Field(None, description="of an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1")
    model: str | None = Field(None, description="as the server calls it; without base_url a folder, .gguf or hub id")
    revision: str | None = Field(None, description="of the model; for a server it is only written down")
    api_key_env: str | None = Field(None, description="environment variable that holds the key, not the key itself")
    max_concurrency: int = Field(8, ge=1, description="requests under way at once; for a local model its batch size")
    timeout: float = Field(60.0, gt=0, description="seconds without a sign of the server before a request has failed")
    max_retries: int = Field(5, ge=0, description="further tries of a request that failed, with growing pauses")
    max_tokens: int = Field(512, ge=1, description="longest answer of the judge")
    format: Literal["llama_guard", "wildguard", "shieldgemma"] | None = Field(
        None, description="of the classifier behind the guard judge; llama_guard where absent"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_alone_will_do(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("base_url")
    @classmethod
    def _no_secret_in_the_address(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        if value is None or (parts.scheme in ("http", "https") and parts.hostname and not set("?@") & set(value)):
            return value
        raise ValueError(
            "an http(s) address without user, password or query is needed; a key belongs into the environment variable "
            "that api_key_env names"
        )

    @field_validator("api_key_env")
    @classmethod
    def _a_name_not_a_key(cls, value: str | None) -> str | None:
        if value is None or re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", value):
            return value
        raise ValueError("the name of an environment variable in capitals is needed, never the key itself")


class EvaluateConfig(Block):
    """What is asked of the base and the tuned model."""

    prompts: list[PromptsConfig] = Field(default_factory=list)
    held_out_datasets: list[DatasetConfig] = Field(default_factory=list)
    judges: list[JudgeConfig] = Field(default_factory=lambda: [JudgeConfig(name="refusal")])
    max_new_tokens: int = Field(64, ge=1)
    max_prompt_length: int = Field(
        2048, ge=1, description="longest prompt, in tokens with the chat template; longer ones are left out and counted"
    )
    batch_size: int = Field(16, ge=1)
    base: bool = Field(True, description="evaluate the untouched model too")
    endpoints: dict[str, JudgeConfig] = Field(
        default_factory=dict,
        description="base or tuned, if a server holds it: base_url, model and the other keys of a judge; its losses "
        "and tasks are left out",
    )
    tasks: list[str] = Field(
        default_factory=list, description="tasks of lm-evaluation-harness: names (gsm8k, mmlu) or task files (.yaml)"
    )
    task_limit: int | None = Field(None, ge=1, description="the first so many rows of each task")
    task_num_fewshot: int | None = Field(None, ge=0, description="examples before each question; default: the task's")
    task_chat_template: bool = Field(False, description="ask through the chat template, not as plain text")

    @field_validator("endpoints", mode="before")
    @classmethod
    def _named_by_their_keys(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {
            key: {"name": key, **server} if isinstance(server, Mapping) else server for key, server in value.items()
        }

    @field_validator("endpoints")
    @classmethod
    def _on_a_server(cls, value: dict[str, JudgeConfig]) -> dict[str, JudgeConfig]:
        for name, server in value.items():
            if name not in ("base", "tuned"):
                raise ValueError(f"{name}: base or tuned is needed")
            if server.base_url is None:
                raise ValueError(f"{name}: base_url is missing; without it the model is loaded here")
        return value


class CompareConfig(Block):
    """What ``sealtune compare`` compares."""

    methods: list[str] = Field(
        default_factory=lambda: ["base", "full", "random", "dsir", "safeinstr", "seal", "probe", "probe+safeinstr"],
        description="base, full (all rows), safeinstr (all rows and safety rows), any ranker, any ranker+safeinstr",
    )
    reference: str = Field("random", description="the method whose difference to the others is told")
    seeds: list[int] = Field(default_factory=lambda: [0, 1], min_length=1)
    safety_datasets: list[DatasetConfig] = Field(
        default_factory=list, description="rows of safe answers that safeinstr mixes in"
    )
    max_steps: int | None = Field(
        None, ge=1, description="fine-tuning steps of every method; what the kept share takes where absent"
    )


class ReportConfig(Block):
    """What the page shows."""

    rows_shown: int = Field(20, ge=1)
    title: str = "sealtune report"


class Config(Block):
    """The whole configuration of a run."""

    model_name_or_path: str
    model_revision: str | None = None
    trust_remote_code: bool = False
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attn_implementation: str | None = None
    load_in_4bit: bool = False
    datasets: list[DatasetConfig] = Field(default_factory=list)
    safe_datasets: list[DatasetConfig] = Field(default_factory=list)
    label_column: str | None = Field(None, description="ground truth, 1 = unsafe; read by reports alone")
    output_dir: str = "runs/sealtune"
    seed: int = Field(0, ge=0, lt=2**31)
    max_length: int = Field(1024, ge=8)
    overlong_rows: Literal["truncate", "drop"] = Field(
        "truncate", description="truncate: cut the last response from the right; drop: leave the row out"
    )
    resume_from_checkpoint: bool | str = False
    rank: RankConfig = Field(default_factory=RankConfig)
    select: SelectConfig = Field(default_factory=SelectConfig)
    tune: TuneConfig = Field(default_factory=TuneConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)
    compare: CompareConfig = Field(default_factory=CompareConfig)

    @property
    def ranking(self) -> Config:
        """The configuration as a ranker sees it: ``rank.model_name_or_path``, where it is named, as the model."""
        proxy = self.rank.model_name_or_path
        if proxy is None:
            return self
        rank = self.rank.model_copy(update={"model_name_or_path": None, "model_revision": None})
        named = {"model_name_or_path": proxy, "model_revision": self.rank.model_revision}
        return self.model_copy(update={**named, "rank": rank})

    @field_validator("datasets", "safe_datasets", mode="before")
    @classmethod
    def _one_will_do(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]

    @model_validator(mode="after")
    def _four_bit_weights_stay_as_they_are(self) -> Config:
        if self.load_in_4bit and not (self.rank.use_peft and self.tune.use_peft):
            raise ValueError("load_in_4bit: 4-bit weights cannot be trained; set use_peft to true")
        if self.load_in_4bit and self.tune.merge:
            raise ValueError("load_in_4bit: an adapter cannot be merged into 4-bit weights; set tune.merge to false")
        return self
