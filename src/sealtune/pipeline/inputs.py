"""The rows, tokens and prompts of a run. Each is loaded when it is first needed, and only once."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sealtune.core.config import Config, DatasetConfig
from sealtune.core.console import track
from sealtune.core.errors import UserError
from sealtune.core.types import Drop, Labels
from sealtune.data.cache import RowCache, TokenCache
from sealtune.data.chat_template import ensure_chat_template
from sealtune.data.encode import EncodeOptions, encode_batches, join_batches
from sealtune.data.encoded import Encoded, TokensAndMask
from sealtune.data.load import load, no_rows
from sealtune.data.reasons import count_reasons, plural
from sealtune.data.row_store import Rows, UnusedRows
from sealtune.data.turns import UnusableRow
from sealtune.evaluation.prompts import Prompts, fit, load_prompts
from sealtune.models.lengths import Limit, find_limit
from sealtune.models.load import load_tokenizer, model_fingerprint, tokenizer_fingerprint
from sealtune.models.model_config import load_model_config
from sealtune.pipeline.fingerprints import data_fingerprint
from sealtune.pipeline.labels import read_label

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Owner = TypeVar("Owner")
Loaded = TypeVar("Loaded")


def load_once(method: Callable[[Owner], Loaded]) -> Callable[[Owner], Loaded]:
    """Make a method without arguments keep its result in the object."""
    name = f"_{method.__name__}_result"

    @wraps(method)
    def cached(self: Owner) -> Loaded:
        results = vars(self)
        if name not in results:
            results[name] = method(self)
        loaded: Loaded = results[name]
        return loaded

    return cached


@dataclass(frozen=True)
class TokenizedRows:
    """Rows, their tokens, and the rows that cannot be used."""

    rows: Rows
    encoded: Encoded
    drops: Collection[Drop]


class RunInputs:
    """Rows, tokens, prompts and tokenizer of a run.

    Args:
        config: The configuration that names them.
        cache: Keeps rows and tokens in the run folder, for later stages.
        parent: The inputs that share their rows with these, under another model.
        tokenizer: The tokenizer; None for that of the config's model.
        model_config: The config.json of a model in memory; None for that of the config's model.
    """

    def __init__(
        self,
        config: Config,
        cache: TokenCache | None = None,
        parent: RunInputs | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        model_config: PreTrainedConfig | None = None,
    ) -> None:
        self.config = config
        self.given_tokenizer = tokenizer
        self.given_model_config = model_config
        self.cache = cache
        self.parent = parent
        self.notes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """How rows were changed to fit the chat template, counted by set, if they were tokenized just now."""

    @load_once
    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, with a chat template."""
        tokenizer = self.given_tokenizer or load_tokenizer(self.config)
        ensure_chat_template(tokenizer)
        return tokenizer

    @load_once
    def length_limit(self) -> Limit | None:
        """The largest number of tokens that the model and its tokenizer allow; None without a limit."""
        return find_limit(self.given_model_config or load_model_config(self.config), self.load_tokenizer())

    @load_once
    def max_length(self) -> int:
        """``max_length``, or what the model allows if that is less."""
        requested, limit = self.config.max_length, self.length_limit()
        if limit is None or requested <= limit.tokens:
            return requested
        of = limit.of if self.parent is None else limit.of.replace("the model", "the ranking model")
        logger.warning("max_length %d is more than the %d %s; using %d", requested, limit.tokens, of, limit.tokens)
        return limit.tokens

    @load_once
    def for_ranking(self) -> RunInputs:
        """The same rows under the model that ranks them; these inputs themselves if it is the model to be tuned."""
        if self.config.ranking is self.config:
            return self
        cache = self.cache and TokenCache(self.cache.folder, "ranking_")
        return RunInputs(self.config.ranking, cache, parent=self)

    # -- candidates --------------------------------------------------------------------------------------------------

    @load_once
    def load_rows(self) -> Rows:
        """The candidates before tokenization."""
        if self.parent is not None:
            return self.parent.load_rows()
        return self._load("candidates", _required("datasets", self.config.datasets))

    @load_once
    def load_candidates(self) -> TokenizedRows:
        """The candidates that both this model and the ranking model can use. Raises UserError if there are none."""
        own, ranking = self._load_own_candidates(), self.for_ranking()
        if ranking is self:
            return own
        other = ranking._load_own_candidates()
        encoded = own.encoded.isin(other.encoded.ids)
        if len(encoded) == 0:
            first = next(iter(other.drops)).detail
            raise UserError(f"no row is usable by both the model and rank.model_name_or_path; first: {first}")
        known = {drop.id for drop in own.drops}
        more = [replace(d, detail=f"for the ranking model: {d.detail}") for d in other.drops if d.id not in known]
        return TokenizedRows(own.rows, encoded, UnusedRows(own.drops, more))

    @load_once
    def load_ranking_candidates(self) -> Encoded:
        """The same candidates, tokenized for the ranking model."""
        return self.for_ranking()._load_own_candidates().encoded.isin(self.load_candidates().encoded.ids)

    @load_once
    def _load_own_candidates(self) -> TokenizedRows:
        """The candidates that this model can use."""
        return self.tokenize(self.load_rows(), "candidates")

    def load_labels(self) -> Labels | None:
        """True labels of the candidates by id (1 = unsafe), used in reports only. Raises UserError on other values."""
        column = self.config.label_column
        if column is None:
            return None
        samples = self.load_rows().samples
        threshold = self.config.label_threshold
        labels = (read_label(sample.row, column, sample.id, threshold) for sample in samples)
        return Labels(samples.ids, np.fromiter(labels, np.int64, len(samples)))

    # -- other data sets ---------------------------------------------------------------------------------------------

    @load_once
    def load_safe(self) -> TokenizedRows:
        """The safe set."""
        return self.tokenize(self._load_safe_rows(), "safe")

    @load_once
    def _load_safe_rows(self) -> Rows:
        if self.parent is not None:
            return self.parent._load_safe_rows()
        return self._load("safe", _required("safe_datasets", self.config.safe_datasets))

    @load_once
    def load_mix_rows(self) -> Rows:
        """The rows that are added after selection; there may be none."""
        return load(self.config.select.mix_datasets) if self.config.select.mix_datasets else no_rows()

    @load_once
    def load_held_out(self) -> TokenizedRows:
        """Held-out rows of the task."""
        return self.tokenize(load(self.config.evaluate.held_out_datasets))

    @load_once
    def load_prompts(self) -> Prompts:
        """The evaluation prompts, and those that cannot be used."""
        settings = self.config.evaluate
        found = load_prompts(settings.prompts)
        if not found.asked:
            return found
        limit = self.length_limit()
        context = limit.tokens if limit else None
        return fit(found, self.load_tokenizer(), settings.max_prompt_length, settings.max_new_tokens, context)

    @load_once
    def fingerprints(self) -> dict[str, Any]:
        """The model and the data sets, with hashes of all local files."""
        return {
            "model": model_fingerprint(self.config),
            "datasets": [data_fingerprint(c) for c in self.config.datasets],
            "safe_datasets": [data_fingerprint(c) for c in self.config.safe_datasets],
        }

    # -- loading and tokenization ------------------------------------------------------------------------------------

    def tokenize(self, rows: Rows, name: str | None = None) -> TokenizedRows:
        """Tokenize rows under the run's tokenizer and ``max_length``, cut to what the model allows.

        Args:
            rows: The rows.
            name: Name of their tokens in the cache; without a name they are not cached.

        Raises:
            UserError: no row can be used.
        """
        options = self._encode_options()
        found = None
        if self.cache is not None and name is not None:
            about = f"{tokenizer_fingerprint(self.load_tokenizer())} {options}"
            found = self.cache.get(name, about, rows, lambda: self._tokenize(rows, name))
        if found is None:
            notes = Counter[str]()
            batches = encode_batches(rows.samples, self.load_tokenizer(), options, notes)
            found = join_batches(rows.samples, batches)
            self._say(name or "rows", notes)
        encoded, drops = found
        if len(encoded) == 0:
            reasons, first = count_reasons(drops), next(iter(drops))
            raise UserError(
                f"no usable row is left of {len(rows.samples)} ({reasons}); first: {first.detail}; "
                f"look at them with `sealtune inspect`, or raise max_length={options.max_length}"
            )
        return TokenizedRows(rows, encoded, UnusedRows(rows.drops, drops))

    def _encode_options(self) -> EncodeOptions:
        config = self.config
        return EncodeOptions(self.max_length(), config.overlong_rows, config.template_markers)

    def _tokenize(self, rows: Rows, name: str) -> Iterator[list[TokensAndMask | UnusableRow]]:
        done, total, notes = 0, len(rows.samples), Counter[str]()
        with track(f"{name}: tokens") as advance:
            for batch in encode_batches(rows.samples, self.load_tokenizer(), self._encode_options(), notes):
                yield batch
                done += len(batch)
                if done < total:  # no progress line for a single batch
                    tokens = sum(len(tried[0]) for tried in batch if not isinstance(tried, UnusableRow))
                    advance(done, total, len(batch), tokens)
        self._say(name, notes)

    def _say(self, name: str, notes: Counter[str]) -> None:
        self.notes[name] = notes
        for note, count in notes.items():
            logger.info("%s: %s: %s", name, plural(count, "row"), note)

    def _load(self, name: str, configs: list[DatasetConfig]) -> Rows:
        """The rows of these data sets. With a cache they are kept under ``name``."""
        if self.cache is None:
            return load(configs)
        found = [data_fingerprint(config) for config in configs]
        about = None if any(one["sha256"] is None for one in found) else json.dumps(found, default=str)
        with track(f"{name}: rows") as advance:

            def write(folder: Path) -> Rows:
                return load(configs, folder, lambda rows: advance(rows, None))

            return RowCache(self.cache.folder).get(name, about, write)


def _required(key: str, configs: list[DatasetConfig]) -> list[DatasetConfig]:
    if not configs:
        flag = "--data" if key == "datasets" else "--safe"
        raise UserError(f"{key}: none given; set it in the config or use {flag} FILE")
    return configs
