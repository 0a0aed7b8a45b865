"""The configuration as pydantic models; unknown keys are errors.

Names follow TRL and transformers. ``docs/paper_index.md`` gives the source of every default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from sealtune.core.errors import did_you_mean


class Block(BaseModel):
    """A block of the configuration."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), coerce_numbers_to_str=True, allow_inf_nan=False)


class DatasetConfig(Block):
    """A dataset: a file, a ``save_to_disk`` folder or a hub id. A bare string is the path."""

    path: str
    name: str | None = Field(None, description="hub dataset: its configuration name; file: its name in tables")
    split: str = "train"
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="column of each field of the format, e.g. {prompt: question, response: answer}",
    )
    format: str | None = Field(None, description="row format, e.g. alpaca; default: detected from the columns")
    fraction: float = Field(1.0, gt=0, le=1, description="share of the rows to use, sampled by a hash of the id")
    rows: SkipJsonSchema[list[dict[str, Any]] | None] = Field(
        None, exclude=True, description="the rows themselves, if called from Python; path is then only their name"
    )

    @model_validator(mode="before")
    @classmethod
    def _allow_bare_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class LoraBlock(Block):
    """Settings that ranking and tuning share."""

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
    save_steps: int = Field(500, ge=1, description="save a checkpoint every this many steps")
    report_to: list[str] = Field(
        default_factory=list, description="experiment trackers that get every step: trackio, tensorboard, wandb, mlflow"
    )


IMPORTED = "imported"
"""The ranking method that reads scores made elsewhere."""


class RankConfig(LoraBlock):
    """How rows are ranked. ``method`` is the name of a file in ``sealtune/ranking/methods``."""

    method: str = "probe"
    model_name_or_path: str | None = Field(
        None, description="a smaller model that ranks instead of the model to tune; rows must be usable with both"
    )
    model_revision: str | None = Field(None, description="revision of rank.model_name_or_path")
    num_train_epochs: int = Field(
        3, ge=1, description="seal: epochs over the candidates; probe: maximum epochs over the safe set"
    )
    algorithm: Literal[1, 2] = Field(
        2,
        description="1: theta and theta-hat, the selector sees their loss gap; 2: theta alone, it sees the loss",
    )
    weighting: Literal["softmax", "sigmoid"] = "softmax"
    selector_update: Literal["mirror", "adam"] = Field(
        "mirror", description="mirror: sparse, exact mirror descent; adam: dense Adam"
    )
    selector_learning_rate: float | None = Field(None, gt=0, description="default: 0.3 for mirror, 0.005 for adam")
    gamma: float = Field(0.03, ge=0, lt=1)
    gamma_schedule: Literal["linear", "constant"] = Field(
        "linear", description="linear: 0, gamma, 2 gamma, ..., one value per epoch; constant: always gamma"
    )
    safe_batch_size: int | None = Field(
        None, ge=1, description="rows of the safe set per step; default: the batch size"
    )
    stop_when_stable: float | None = Field(
        None,
        gt=0,
        le=1,
        description="seal: stop after an epoch if its ranking correlates at least this much with the previous epoch's",
    )
    torch_compile: bool = Field(
        False, description="compile the ranking model: slower start, faster steps; not with a sharded base model"
    )
    max_non_finite: float = Field(
        0.01, ge=0, le=0.5, description="maximum share of rows with a NaN or infinite loss; they are ranked last"
    )
    decisions: str | None = Field(
        None, description="JSONL file of people's decisions about rows, from which the ranker learns"
    )
    scores: str | None = Field(
        None,
        description="imported: the file of scores, Parquet or CSV, with the columns id and score (higher = keep)",
    )

    @property
    def origin(self) -> str:
        """Where the scores come from, in a few words."""
        return f"{self.method} from {self.scores}" if self.method == IMPORTED else self.method

    @model_validator(mode="after")
    def _check_scores_are_imported(self) -> RankConfig:
        if self.method == IMPORTED and self.scores is None:
            raise ValueError(f"method={IMPORTED} reads a file; name it in scores")
        if self.method != IMPORTED and self.scores is not None:
            raise ValueError(f"scores are read by method={IMPORTED} alone; set scores to null, or method to {IMPORTED}")
        return self

    @model_validator(mode="after")
    def _check_gamma_below_one(self) -> RankConfig:
        if self.gamma_schedule == "linear" and self.gamma * (self.num_train_epochs - 1) >= 1:
            raise ValueError("gamma * (num_train_epochs - 1) must stay below 1 with the linear schedule")
        return self


class SelectConfig(Block):
    """Which rows are kept: the top ``keep_ratio``, or all with a score of at least ``threshold``."""

    keep_ratio: float | Literal["auto"] = Field(
        0.8, description="share of rows to keep; auto: all but the estimated share of unsafe rows"
    )
    threshold: float | None = Field(None, description="minimum score of kept rows; overrides keep_ratio")
    granularity: Literal["row", "turn"] = Field(
        "row",
        description="what is scored, and kept or not. row: whole conversations; turn: every answer; those not kept are "
        "masked if their conversation has others that are",
    )
    decisions: str | None = Field(
        None, description="JSONL file of people's decisions: rows kept or dropped whatever their score"
    )
    mix_datasets: list[DatasetConfig] = Field(
        default_factory=list, description="rows to add to the kept rows, e.g. safety demonstrations"
    )

    @field_validator("keep_ratio", mode="before")
    @classmethod
    def _check_share_or_auto(cls, value: Any) -> Any:
        if value != "auto" and not (isinstance(value, int | float) and 0 < value <= 1):
            raise ValueError("must be a share in (0, 1], or auto")
        return value


class TuneConfig(LoraBlock):
    """The final fine-tuning with TRL's SFTTrainer."""

    num_train_epochs: float = Field(2, gt=0)
    max_steps: int = Field(-1, description="total number of steps; -1: as many as num_train_epochs takes")
    logging_steps: int = Field(1, ge=1)
    lr_scheduler_type: str = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    merge: bool = Field(False, description="merge the adapter into the base model and save the full model")
    guard: Literal["off", "teach", "keep", "auto"] = Field(
        "teach",
        description="how the safe set stays in force. teach: its answers are learned in every step; keep: the start "
        "model's predictions on them are kept; auto: teach the rows on which the start model does not do as the safe "
        "answer does, keep the others; off: tune on the task alone",
    )
    guard_weight: float = Field(
        0.5, gt=0, description="smallest weight of the safe rows in the loss; raised while a third of them, held out, "
        "shows that the model moves away from them",
    )  # fmt: skip
    guard_batch_size: int | None = Field(
        None, ge=1, description="safe rows per step in all processes; default: a quarter of the rows of the task"
    )
    guard_column: str | None = Field(
        None,
        description="column of the safe rows that says harmful or harmless of their prompt; default: kind if there is "
        "one, otherwise the prompt is harmful if the safe answer refuses",
    )
    guard_tolerance: float = Field(
        0.02,
        ge=0,
        description="AUROC, harmful against harmless prompts, that may be lost before an earlier step is kept",
    )
    use_weights: bool = Field(False, description="weigh the rows kept with the weights of the ranking (seal)")

    @field_validator("guard", mode="before")
    @classmethod
    def _read_yaml_switch(cls, value: Any) -> Any:
        return {False: "off", True: "teach"}[value] if isinstance(value, bool) else value  # YAML reads off as false


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
"""Names of the public prompt sets, which ``sealtune/evaluation/prompt_sets.py`` describes."""


class PromptsConfig(Block):
    """Evaluation prompts: a file or a public prompt set. A bare string is the path."""

    path: str | None = Field(
        None, description="a file, a hub id, or the name of a public prompt set (docs/prompt_sets.md)"
    )
    set: str | None = Field(None, description="public prompt set; with path: the file at path is a copy of this set")
    kind: Literal["harmful", "harmless"] | None = Field(
        None, description="kind of the prompts in a file; of a set with both kinds, the kind to use"
    )
    name: str | None = Field(None, description="name in tables; default: the name of the file or set")
    column: str | None = Field(None, description="column of the prompt; default: prompt, or the set's own column")
    limit: int | None = Field(None, ge=1, description="maximum number of prompts per kind; the first ones are used")

    @model_validator(mode="before")
    @classmethod
    def _allow_bare_path(cls, value: Any) -> Any:
        given = {"path": value} if isinstance(value, str) else value
        if isinstance(given, dict) and given.get("set") is None and given.get("path") in PROMPT_SETS:
            return {**given, "set": given["path"], "path": None}
        return given

    @model_validator(mode="after")
    def _check_set_and_kind(self) -> PromptsConfig:
        if self.path is None and self.set is None:
            raise ValueError(f"needs path (a file) or set (one of {', '.join(PROMPT_SETS)})")
        unknown = self.set if self.set not in PROMPT_SETS else None
        if unknown is None and (self.set or self.kind):
            return self
        name = (unknown or self.path or "").lower()
        hint = did_you_mean(name, PROMPT_SETS) or f"public sets: {', '.join(PROMPT_SETS)}"
        problem = f"no public set {unknown!r}" if unknown else "kind is needed for a file: harmful or harmless"
        raise ValueError(f"{problem}; {hint}")


_SECRET_PARAMETER = re.compile(
    r"key|token|secret|passw|pwd|credential|signature|authorization|\b(?:sig|sign|auth|code|jwt|sas)\b",
    re.IGNORECASE,
)


def _is_secret_parameter(parameter: tuple[str, str]) -> bool:
    """Whether a parameter of a URL (name, value) seems to be a key: by its name, or by a long value without words."""
    name, value = parameter
    return bool(_SECRET_PARAMETER.search(name.replace("_", "-")) or re.fullmatch(r"[\w~+/=.-]{32,}", value))


class JudgeConfig(Block):
    """A judge; a bare string is its name, which is that of a file in ``sealtune/evaluation/judges``.

    A judge model is either served by any server with OpenAI's chat API (``base_url`` and ``model``) or run locally
    (``model`` alone, a folder or hub id).
    """

    name: str
    base_url: str | None = Field(
        None,
        description="URL of an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1; a query may name a version",
    )
    model: str | None = Field(
        None, description="the server's name of the model; without base_url a folder, .gguf file or hub id"
    )
    revision: str | None = Field(None, description="revision of the model; with base_url it is only recorded")
    api_key_env: str | None = Field(
        None, description="name of the environment variable with the API key, never the key itself"
    )
    max_concurrency: int = Field(
        8, ge=1, description="maximum number of concurrent requests; for a local model the batch size"
    )
    timeout: float = Field(60.0, gt=0, description="seconds without data from the server after which a request fails")
    max_retries: int = Field(5, ge=0, description="retries of a failed request, with exponential backoff")
    max_tokens: int = Field(512, ge=1, description="maximum length of the judge's reply")
    format: Literal["llama_guard", "wildguard", "shieldgemma"] | None = Field(
        None, description="prompt format of the guard judge's classifier; default: llama_guard"
    )

    @model_validator(mode="before")
    @classmethod
    def _allow_bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("base_url")
    @classmethod
    def _check_url_without_secret(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        is_server = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        if not is_server or re.search(r"[\s\\#]", value):
            raise ValueError("must be an http(s) URL such as http://127.0.0.1:8000/v1")
        if "@" in value or any(map(_is_secret_parameter, parse_qsl(parts.query, keep_blank_values=True))):
            raise ValueError(
                "must be an http(s) URL without user, password or key; put the key into an environment variable and "
                "name the variable in api_key_env"
            )
        return value

    @field_validator("api_key_env")
    @classmethod
    def _check_variable_name(cls, value: str | None) -> str | None:
        if value is None or re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", value):
            return value
        raise ValueError("must be the name of an environment variable in capitals, never the key itself")


class PairsConfig(Block):
    """A file of pairs: a prompt, a safe and an unsafe answer to it. A bare string is the path."""

    path: str
    columns: dict[Literal["prompt", "safe", "unsafe"], str] = Field(
        default_factory=dict,
        description="column of each part, e.g. {safe: chosen, unsafe: rejected}; default: its own name",
    )
    limit: int | None = Field(None, ge=1, description="maximum number of pairs; the first ones are used")

    @model_validator(mode="before")
    @classmethod
    def _allow_bare_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class EvaluateConfig(Block):
    """How the base and the tuned model are evaluated."""

    prompts: list[PromptsConfig] = Field(default_factory=list)
    likelihood: bool = Field(
        True,
        description="measure how well each model tells harmful from harmless prompts, without generating answers; "
        "prompts that are shipped are added unless prompts of both kinds are given",
    )
    pairs: PairsConfig | None = Field(
        None, description="pairs of a safe and an unsafe answer, whose log-probabilities are compared"
    )
    own_openings: SkipJsonSchema[bool] = Field(
        True, exclude=True, description="whether openings are also taken from the base model's answers, if it gave any"
    )
    held_out_datasets: list[DatasetConfig] = Field(default_factory=list)
    judges: list[JudgeConfig] = Field(default_factory=lambda: [JudgeConfig(name="refusal")])
    max_new_tokens: int = Field(64, ge=1)
    max_prompt_length: int = Field(
        2048, ge=1, description="maximum prompt length in tokens, with the chat template; longer prompts are skipped"
    )
    batch_size: int = Field(16, ge=1)
    base: bool = Field(True, description="also evaluate the base model")
    endpoints: dict[str, JudgeConfig] = Field(
        default_factory=dict,
        description="served models by name (base or tuned), with the keys of a judge (base_url, model, ...); their "
        "losses and tasks are skipped",
    )
    tasks: list[str] = Field(
        default_factory=list, description="lm-evaluation-harness tasks: names (gsm8k, mmlu) or task files (.yaml)"
    )
    task_limit: int | None = Field(None, ge=1, description="maximum number of rows per task")
    task_num_fewshot: int | None = Field(None, ge=0, description="number of few-shot examples; default: the task's")
    task_chat_template: bool = Field(False, description="apply the chat template to the questions")

    @model_validator(mode="after")
    def _check_pairs_are_used(self) -> EvaluateConfig:
        if self.pairs is not None and not self.likelihood:
            raise ValueError("pairs: they are compared by likelihood, which is false; set it to true")
        return self

    @field_validator("endpoints", mode="before")
    @classmethod
    def _name_endpoints_by_key(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {
            key: {"name": key, **endpoint} if isinstance(endpoint, Mapping) else endpoint
            for key, endpoint in value.items()
        }

    @field_validator("endpoints")
    @classmethod
    def _check_endpoints(cls, value: dict[str, JudgeConfig]) -> dict[str, JudgeConfig]:
        for name, endpoint in value.items():
            if name not in ("base", "tuned"):
                raise ValueError(f"{name}: must be base or tuned")
            if endpoint.base_url is None:
                raise ValueError(f"{name}: base_url is missing; without it the model is loaded here")
        return value


class CompareConfig(Block):
    """Which methods ``sealtune compare`` compares."""

    methods: list[str] = Field(
        default_factory=lambda: ["base", "full", "random", "safeinstr", "seal", "probe", "guard", "probe+guard"],
        description="base, full (all rows) or any ranker; +safeinstr adds safety_datasets, +guard lets the safe set "
        "guard the tuning; safeinstr and guard alone do so with all rows",
    )
    reference: str = Field("random", description="the method that the others are compared with")
    seeds: list[int] = Field(default_factory=lambda: [0, 1], min_length=1)
    safety_datasets: list[DatasetConfig] = Field(
        default_factory=list, description="safety demonstrations that safeinstr adds"
    )
    max_steps: int | None = Field(
        None, ge=1, description="fine-tuning steps of every method; default: as many as the kept rows take"
    )


class ReportConfig(Block):
    """What the report shows."""

    rows_shown: int = Field(20, ge=1, description="number of rows in each list of examples")
    title: str = "sealtune report"
    beside: dict[str, str] = Field(
        default_factory=dict,
        description="other runs whose evaluation is shown beside this one's: their names in tables, and their folders "
        "or results.json",
    )

    @field_validator("beside")
    @classmethod
    def _check_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not name.strip() or name in ("base", "tuned"):
                raise ValueError(f"{name!r} cannot be the name of another run; choose one that says what it did")
        return value


class Config(Block):
    """The complete configuration of a run."""

    model_name_or_path: str
    model_revision: str | None = None
    trust_remote_code: bool = False
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attn_implementation: str | None = None
    load_in_4bit: bool = False
    datasets: list[DatasetConfig] = Field(default_factory=list)
    safe_datasets: list[DatasetConfig] = Field(default_factory=list)
    label_column: str | None = Field(None, description="column of the ground truth, 1 = unsafe; only used in reports")
    output_dir: str = "runs/sealtune"
    seed: int = Field(0, ge=0, lt=2**31)
    max_length: int = Field(1024, ge=8)
    overlong_rows: Literal["truncate", "drop"] = Field(
        "truncate", description="truncate: cut the end of the last response; drop: skip the row"
    )
    template_markers: Literal["refuse", "text"] = Field(
        "refuse",
        description="contents with special tokens that the chat template writes itself: refuse drops the row; text "
        "takes them as plain text",
    )
    label_threshold: float | None = Field(
        None, gt=0, lt=1, description="labels that are probabilities: the lowest one that counts as unsafe"
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
        """The configuration of the ranking: ``rank.model_name_or_path``, if set, is its model."""
        proxy = self.rank.model_name_or_path
        if proxy is None:
            return self
        rank = self.rank.model_copy(update={"model_name_or_path": None, "model_revision": None})
        named = {"model_name_or_path": proxy, "model_revision": self.rank.model_revision}
        return self.model_copy(update={**named, "rank": rank})

    @field_validator("datasets", "safe_datasets", mode="before")
    @classmethod
    def _allow_one_dataset(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]

    @model_validator(mode="after")
    def _check_granularity(self) -> Config:
        if self.select.granularity == "turn" and self.rank.method == IMPORTED:
            raise ValueError("select.granularity=turn: imported scores are those of whole rows; set it to row")
        return self

    @model_validator(mode="after")
    def _check_four_bit(self) -> Config:
        if self.load_in_4bit and not (self.rank.use_peft and self.tune.use_peft):
            raise ValueError("load_in_4bit: 4-bit weights cannot be trained; set use_peft to true")
        if self.load_in_4bit and self.tune.merge:
            raise ValueError("load_in_4bit: an adapter cannot be merged into 4-bit weights; set tune.merge to false")
        return self
