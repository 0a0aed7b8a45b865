"""What is measured of the models of a run without generating answers, stored like their answers.

The start model is measured even if it is not evaluated otherwise: its threshold and its first tokens are what the tuned
model is compared with. Models that are served are not measured: a server does not give the log-probabilities.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from sealtune.core.console import track
from sealtune.core.types import Response
from sealtune.models.load import tokenizer_fingerprint
from sealtune.pipeline.fingerprints import path_fingerprint
from sealtune.pipeline.stored_answers import StoredRecords

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sealtune.evaluation.kl import Reference
    from sealtune.evaluation.likelihood import EncodedPrompt, PromptLikelihood
    from sealtune.evaluation.likelihood_table import Measured, PairMargin, PromptDivergence
    from sealtune.evaluation.pairs import EncodedPairs
    from sealtune.models.openings import TokenIds
    from sealtune.pipeline.run import Run

logger = logging.getLogger(__name__)

FILES = ("evaluate/likelihood.jsonl", "evaluate/openings.json")
MAX_ANSWERS = 2000
"""Answers of the safe set in which openings are looked for; the first ones are used."""
MAX_DIVERGENCES = 100
"""Harmful prompts on which the divergence from the start model is measured; the first ones are used."""
OPENING_TOKENS = 10
"""Tokens that a prompt must leave free in the model's context."""


def fingerprints(run: Run) -> dict[str, Any]:
    """What the measures depend on beside the model and the prompts of the run."""
    from sealtune.evaluation.likelihood import default_prompts

    settings = run.config.evaluate
    if not settings.likelihood:
        return {}
    pairs = settings.pairs and path_fingerprint(settings.pairs.path)
    return {"pairs": pairs, "default_prompts": [(p.id, p.prompt) for p in default_prompts()]}


def check(run: Run) -> None:
    """Raise UserError if the prompts, openings or pairs cannot be used, before a model is loaded."""
    Likelihood(run, {}, list).check()


class Likelihood:
    """The measures of the models of a run.

    Args:
        run: The run.
        dependencies: Everything that the evaluation depends on.
        start_answers: The answers of the start model to the prompts of the run, as far as there are any.
    """

    def __init__(self, run: Run, dependencies: Mapping[str, Any], start_answers: Callable[[], list[Response]]) -> None:
        settings = run.config.evaluate
        self.run, self.dependencies, self.start_answers = run, dependencies, start_answers
        here = [name for name in ("base", "tuned") if settings.likelihood and name not in settings.endpoints]
        self.names = [] if here == ["base"] and not settings.base else here
        if self.names and len({e.prompt.kind for e in self.prompts}) < 2:
            logger.warning("likelihood: nothing is measured: no harmful or no harmless prompt fits into the model")
            self.names = []

    def check(self) -> None:
        """Raise UserError if the prompts, openings or pairs cannot be used."""
        if self.names:
            from sealtune.models.openings import encode_openings

            encode_openings(self.run.inputs.load_tokenizer())
            _ = self.prompts, self.pairs

    def missing(self) -> list[str]:
        """The models of which something is not stored."""
        return [name for name in self.names if self._read(name) is None]

    def measure(self, name: str, model: PreTrainedModel) -> None:
        """Measure one model, the start model first, and store what is not stored."""
        from sealtune.evaluation.likelihood import measure_prompts

        batch_size = self.run.config.evaluate.batch_size
        if (store := self._prompts_of(name)).read() is None:
            with track(f"{name}: log-odds of refusing") as advance:
                store.write(measure_prompts(model, name, self.prompts, self.openings, batch_size, advance))
        self._measure_pairs(name, model)
        self._measure_divergences(name, model)

    def write(self) -> list[dict[str, Any]]:
        """Write FILES from what is stored; the rows of the evaluation table."""
        from sealtune.evaluation.likelihood_table import tabulate, threshold_values

        models = {name: found for name in self.names if (found := self._read(name)) is not None}
        records = [dataclasses.asdict(record) for found in models.values() for record in found.prompts]
        self.run.folder.write_jsonl(FILES[0], records)
        about = {"refusals": self.texts, "thresholds": threshold_values(models)} if models else {}
        self.run.folder.write_json(FILES[1], about)
        rows = tabulate(models)
        return rows if self.run.config.evaluate.base else [row for row in rows if row["model"] != "base"]

    # -- what is measured --------------------------------------------------------------------------------------------

    @cached_property
    def prompts(self) -> list[EncodedPrompt]:
        """The prompts of the run, and those that are shipped unless there are some of both kinds."""
        from sealtune.evaluation.likelihood import encode_prompts, with_default

        longest, limit = self.run.config.evaluate.max_prompt_length, self.run.inputs.length_limit()
        if limit is not None:
            longest = min(longest, limit.tokens - OPENING_TOKENS)
        asked = with_default(self.run.inputs.load_prompts().asked)
        prompts, dropped = encode_prompts(asked, self.run.inputs.load_tokenizer(), longest)
        if dropped:
            logger.warning("likelihood: %d of %d prompts have more than %d tokens", dropped, len(asked), longest)
        return prompts

    @cached_property
    def harmful(self) -> list[EncodedPrompt]:
        """The prompts on which the divergence is measured."""
        return [e for e in self.prompts if e.prompt.kind == "harmful"][:MAX_DIVERGENCES]

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The openings, the same ones for both models."""
        from sealtune.evaluation.answer_openings import openings_of

        return openings_of(self._known_answers())

    def _known_answers(self) -> Iterator[str]:
        if self.run.config.evaluate.own_openings:
            yield from (response.response for response in self.start_answers())
        yield from (sample.response for sample in islice(self.run.inputs.load_safe().rows.samples, MAX_ANSWERS))

    @cached_property
    def openings(self) -> tuple[TokenIds, ...]:
        """Their tokens."""
        from sealtune.models.openings import encode_openings

        return encode_openings(self.run.inputs.load_tokenizer(), self.texts)

    @cached_property
    def pairs(self) -> EncodedPairs | None:
        """The tokens of the pairs."""
        from sealtune.evaluation.pairs import encode_pairs, load_pairs

        config = self.run.config.evaluate.pairs
        if config is None:
            return None
        return encode_pairs(load_pairs(config), self.run.inputs.load_tokenizer(), self.run.inputs.max_length())

    def _measure_pairs(self, name: str, model: PreTrainedModel) -> None:
        from sealtune.evaluation.likelihood_table import PairMargin
        from sealtune.evaluation.pairs import margins

        if self.pairs is None or (store := self._pairs_of(name)).read() is not None:
            return
        with track(f"{name}: pairs") as advance:
            found = margins(model, self.pairs, self.run.config.evaluate.batch_size, advance)
        store.write([PairMargin(*values) for values in zip(self.pairs.safe.ids, *map(list, found), strict=True)])

    def _measure_divergences(self, name: str, model: PreTrainedModel) -> None:
        """Of the start model, what the tuned one is compared with; of the tuned one, the divergence."""
        from sealtune.evaluation.kl import divergences, references
        from sealtune.evaluation.likelihood_table import PromptDivergence

        ids, prompts = [e.prompt.id for e in self.harmful], [e.tokens for e in self.harmful]
        batch_size = self.run.config.evaluate.batch_size
        if name == "base":
            if self._references().read() is None:
                with track(f"{name}: continuations") as advance:
                    found = references(model, ids, prompts, self.run.inputs.load_tokenizer(), batch_size, advance)
                self._references().write(found)
            return
        start = self._references().read() if "base" in self.names else None
        if start is not None and (store := self._divergences_of(name)).read() is None:
            with track(f"{name}: divergence from the start model") as advance:
                nats = divergences(model, prompts, start, batch_size, advance)
            store.write([PromptDivergence(*pair) for pair in zip(ids, nats, strict=True)])

    # -- what is stored ----------------------------------------------------------------------------------------------

    def _read(self, name: str) -> Measured | None:
        """What is stored of a model; None if something is missing."""
        from sealtune.evaluation.likelihood_table import Measured

        prompts = self._prompts_of(name).read()
        pairs = self._pairs_of(name).read() if self.pairs is not None else []
        divergences: list[PromptDivergence] | None = []
        if "base" in self.names:
            divergences = self._divergences_of(name).read() if name != "base" else []
            if name == "base" and self._references().read() is None:
                return None
        if prompts is None or pairs is None or divergences is None:
            return None
        return Measured(prompts, pairs, divergences)

    def _prompts_of(self, name: str) -> StoredRecords[PromptLikelihood]:
        from sealtune.evaluation.likelihood import PromptLikelihood

        ids = [e.prompt.id for e in self.prompts]
        about = [self._about(name), self._asked, self.openings]
        return StoredRecords(self.run.folder, "likelihood", name, PromptLikelihood, ids, about)

    def _pairs_of(self, name: str) -> StoredRecords[PairMargin]:
        from sealtune.evaluation.likelihood_table import PairMargin

        assert self.pairs is not None
        about = [self._about(name), self.dependencies["likelihood"]["pairs"], self.run.config.evaluate.pairs]
        return StoredRecords(self.run.folder, "pairs", name, PairMargin, list(self.pairs.safe.ids), about)

    def _references(self) -> StoredRecords[Reference]:
        from sealtune.evaluation.kl import Reference

        ids = [e.prompt.id for e in self.harmful]
        return StoredRecords(
            self.run.folder, "first_tokens", "base", Reference, ids, [self._about("base"), self._asked]
        )

    def _divergences_of(self, name: str) -> StoredRecords[PromptDivergence]:
        from sealtune.evaluation.likelihood_table import PromptDivergence

        ids, about = [e.prompt.id for e in self.harmful], [self._about(name), self._asked]
        return StoredRecords(self.run.folder, "divergence", name, PromptDivergence, ids, about)

    @cached_property
    def _asked(self) -> list[Any]:
        return [(e.prompt.set, e.prompt.kind, e.tokens) for e in self.prompts]

    @cached_property
    def _model(self) -> dict[str, Any]:
        tokenizer = tokenizer_fingerprint(self.run.inputs.load_tokenizer())
        return {**self.run.model_settings(), "model": self.dependencies["model"], "tokenizer": tokenizer}

    def _about(self, name: str) -> dict[str, Any]:
        return self._model | ({"tuned": self.dependencies["tuned"]} if name == "tuned" else {})
