"""What the stages of one run work on, each read when it is first needed and once only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sealtune.core.config import Config, DatasetConfig
from sealtune.core.console import track
from sealtune.core.errors import UserError
from sealtune.core.files import hash_file
from sealtune.core.types import Drop, Labels
from sealtune.data.cache import RowCache, TokenCache
from sealtune.data.chat_template import ensure_chat_template
from sealtune.data.encode import Part, encode, encode_batches
from sealtune.data.encoded import Encoded
from sealtune.data.formats import UnusableRow
from sealtune.data.load import TELL_EVERY, load, no_rows
from sealtune.data.row_store import Rows
from sealtune.data.unused import Unused
from sealtune.evaluation.prompts import Prompts, fit, load_prompts
from sealtune.models.load import fingerprint, load_tokenizer, tokenizer_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Material:
    """Rows, tokens and tokenizer of a run. With ``cache`` its rows are tokenised once for all stages.

    ``parent`` is the material whose rows these are, under another model.
    """

    def __init__(self, config: Config, cache: TokenCache | None = None, parent: Material | None = None) -> None:
        self.config = config
        self.cache = cache
        self.parent = parent

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, with a chat template."""
        tokenizer = load_tokenizer(self.config)
        ensure_chat_template(tokenizer)
        return tokenizer

    @cached_property
    def rows(self) -> Rows:
        """The candidates as they came through the door."""
        if self.parent is not None:
            return self.parent.rows
        return self._load("candidates", _required("datasets", self.config.datasets))

    @cached_property
    def for_ranking(self) -> Material:
        """What the ranker works on: the same rows under the model that ranks, which often is the one to be tuned."""
        if self.config.ranking is self.config:
            return self
        cache = self.cache and TokenCache(self.cache.folder, "ranking_")
        return Material(self.config.ranking, cache, parent=self)

    @cached_property
    def candidates(self) -> tuple[Encoded, Collection[Drop]]:
        """The candidates as tokens, and all rows that cannot be used by this model or the one that ranks."""
        encoded, drops = self.encoded
        if self.for_ranking is self:
            return encoded, drops
        usable, faults = self.for_ranking.encoded
        both = encoded.isin(usable.ids)
        if len(both) == 0:
            raise UserError(
                "no row is usable by both the model and rank.model_name_or_path; first: " + next(iter(faults)).detail
            )
        known = {drop.id for drop in drops}
        more = [replace(d, detail=f"for the model that ranks: {d.detail}") for d in faults if d.id not in known]
        return both, Unused(drops, more)

    @cached_property
    def ranked(self) -> Encoded:
        """The candidates as tokens of the model that ranks."""
        return self.for_ranking.encoded[0].isin(self.candidates[0].ids)

    @cached_property
    def encoded(self) -> tuple[Encoded, Collection[Drop]]:
        """The candidates as tokens of this model alone, and the rows that it cannot use."""
        encoded, drops = self.encode(self.rows, "candidates")
        return encoded, Unused(self.rows.drops, drops)

    @cached_property
    def safe_rows(self) -> Rows:
        """The safe set as it came through the door."""
        if self.parent is not None:
            return self.parent.safe_rows
        return self._load("safe", _required("safe_datasets", self.config.safe_datasets))

    @cached_property
    def safe(self) -> tuple[Encoded, Collection[Drop]]:
        """The safe set as tokens, and its rows that cannot be used."""
        encoded, drops = self.encode(self.safe_rows, "safe")
        return encoded, Unused(self.safe_rows.drops, drops)

    @cached_property
    def mixed(self) -> Rows:
        """Rows that are added after selection; often none."""
        return load(self.config.select.mix_datasets) if self.config.select.mix_datasets else no_rows()

    @cached_property
    def prompts(self) -> Prompts:
        """What the models are asked, and the prompts that cannot be asked."""
        settings = self.config.evaluate
        found = load_prompts(settings.prompts)
        return fit(found, self.tokenizer, settings.max_prompt_length, settings.max_new_tokens) if found.asked else found

    @cached_property
    def held_out(self) -> tuple[Encoded, Collection[Drop]]:
        """Rows of the task that nothing was trained on."""
        return self.encode(load(self.config.evaluate.held_out_datasets))

    def encode(self, rows: Rows, name: str | None = None) -> tuple[Encoded, Collection[Drop]]:
        """Rows as tokens under the run's tokenizer and ``max_length``; kept under ``name`` where there is a cache.

        Raises:
            UserError: no row can be used.
        """
        length, overlong_rows = self.config.max_length, self.config.overlong_rows
        found = None
        if self.cache is not None and name is not None:
            about = f"{tokenizer_fingerprint(self.tokenizer)} {length} {overlong_rows}"
            found = self.cache.get(name, about, rows, lambda: self._tokenise(rows, name))
        encoded, drops = found or encode(rows.samples, self.tokenizer, length, overlong_rows)
        if len(encoded) == 0:
            reasons, first = sorted({drop.reason for drop in drops}), next(iter(drops))
            raise UserError(
                f"no usable row is left of {len(rows.samples)} ({', '.join(reasons)}); first: {first.detail}; "
                f"look at them with `sealtune inspect`, or raise max_length={self.config.max_length}"
            )
        return encoded, drops

    def _tokenise(self, rows: Rows, name: str) -> Iterator[list[Part | UnusableRow]]:
        done, total = 0, len(rows.samples)
        with track(f"{name}: tokens") as advance:
            for batch in encode_batches(
                rows.samples, self.tokenizer, self.config.max_length, self.config.overlong_rows
            ):
                yield batch
                done += len(batch)
                if done < total:  # a bar is for those who wait
                    tokens = sum(len(tried[0]) for tried in batch if not isinstance(tried, UnusableRow))
                    advance(done, total, len(batch), tokens)

    def _load(self, name: str, configs: list[DatasetConfig]) -> Rows:
        """The rows of these data sets, kept under ``name`` where there is a cache."""
        if self.cache is None:
            return load(configs)
        prints = [data_fingerprint(config) for config in configs]
        about = None if any(found["sha256"] is None for found in prints) else json.dumps(prints, default=str)
        with track(f"{name}: rows") as advance:

            def tell(rows: int, total: int | None) -> None:
                if total is None:
                    advance(rows, None, note="counted")
                else:
                    advance(rows, total + 1, TELL_EVERY)  # all that is left to do then is to name them

            return RowCache(self.cache.folder).get(name, about, lambda folder: load(configs, folder, tell))

    def labels(self) -> Labels | None:
        """Ground truth of the candidates by id, 1 = unsafe; for reports alone. Raises UserError on other values."""
        column = self.config.label_column
        if column is None:
            return None
        samples = self.rows.samples
        truth = (_label(sample.row, column, sample.id) for sample in samples)
        return Labels(samples.ids, np.fromiter(truth, np.int64, len(samples)))

    @cached_property
    def fingerprints(self) -> dict[str, Any]:
        """What the run is made from: the model, and a hash of every file of rows."""
        return {
            "model": fingerprint(self.config),
            "datasets": [data_fingerprint(c) for c in self.config.datasets],
            "safe_datasets": [data_fingerprint(c) for c in self.config.safe_datasets],
        }


def data_fingerprint(config: DatasetConfig) -> dict[str, Any]:
    """The settings of a data set, with a hash of its file or files where they are local."""
    if config.rows is None:
        return {**config.model_dump(), "sha256": path_fingerprint(config.path)}
    return {**config.model_dump(), "sha256": hashlib.sha256(repr(config.rows).encode("utf-8", "replace")).hexdigest()}


def path_fingerprint(path: str) -> str | None:
    """SHA-256 of a file, or of all files of a folder; None for what is not on this machine."""
    place = Path(path)
    if place.is_file():
        return hash_file(place)
    if not place.is_dir():
        return None
    listing = [(str(p.relative_to(place)), hash_file(p)) for p in sorted(place.rglob("*")) if p.is_file()]
    return hashlib.sha256(repr(listing).encode()).hexdigest()


def _required(key: str, configs: list[DatasetConfig]) -> list[DatasetConfig]:
    if not configs:
        flag = "--data" if key == "datasets" else "--safe"
        raise UserError(f"{key}: none given; set it in the config or use {flag} FILE")
    return configs


def _label(row: Any, column: str, row_id: str) -> int:
    if column not in row:
        raise UserError(f"label_column: row {row_id} has no column {column!r}; columns: {', '.join(map(str, row))}")
    try:
        value = int(row[column])
    except (TypeError, ValueError):
        value = -1
    if value not in (0, 1):
        raise UserError(
            f"label_column: row {row_id} has {row[column]!r} in {column!r}; 0 (safe) or 1 (unsafe) is needed"
        )
    return value
