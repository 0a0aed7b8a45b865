"""Asks each question once: replies from this run or an earlier one are cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sealtune.core.console import Advance
from sealtune.evaluation.judge_protocol import Failure, Outcome, Question, Reply

OnOutcome = Callable[[str, Outcome], None]
"""Receives the outcome of the question with this key."""


class Cache(Protocol):
    """Stores replies: a dict, or an ``AnswerCache``."""

    def __contains__(self, key: str, /) -> bool:
        """Whether this question has been answered."""

    def __getitem__(self, key: str, /) -> Mapping[str, Any]:
        """The reply."""

    def __setitem__(self, key: str, record: Mapping[str, Any], /) -> None:
        """Store a reply."""


class Server(Protocol):
    """Something that answers: a server behind HTTP, or a model in this process."""

    identity: Mapping[str, Any]
    """Everything but the question that its replies depend on: model, revision, URL, temperature, maximum length."""

    @property
    def changes(self) -> Mapping[str, Any]:
        """What of ``identity`` the server did not take, e.g. ``{"temperature": None}``; recorded with the replies."""

    def send(self, questions: Mapping[str, Question], on_outcome: OnOutcome) -> None:
        """Answer every question; ``on_outcome`` is called once per question, as soon as its outcome is known."""


def ask(questions: Sequence[Question], server: Server, cache: Cache, advance: Advance) -> list[Outcome]:
    """The outcome of each question, in order. Replies are cached as they arrive; failures are not.

    Raises:
        RunError: the server does not answer, or refuses every question.
    """
    keys = [cache_key(question, server.identity) for question in questions]
    missing = {key: question for key, question in zip(keys, questions, strict=True) if not _is_cached(cache, key)}
    failures: dict[str, Failure] = {}
    total = len(set(keys))
    done = total - len(missing)

    def on_outcome(key: str, outcome: Outcome) -> None:
        nonlocal done
        if isinstance(outcome, Reply):
            cache[key] = {"judge": missing[key].judge, **server.identity, **server.changes, **outcome._asdict()}
        else:
            failures[key] = outcome
        done += 1
        advance(done, total, 1, 0, f"{len(failures)} failed" if failures else "")

    if missing:
        server.send(missing, on_outcome)
    return [failures[key] if key in failures else _cached_reply(cache[key]) for key in keys]


def cache_key(question: Question, identity: Mapping[str, Any]) -> str:
    """SHA-256 of everything that the reply depends on."""
    asked = [question.judge, question.prompt_sha256, question.messages, dict(question.chat_template_kwargs)]
    return hashlib.sha256(json.dumps([*asked, dict(identity)], sort_keys=True).encode("ascii")).hexdigest()


def is_answered(questions: Sequence[Question], server: Server, cache: Cache) -> bool:
    """Whether no question has to be asked, because all replies are cached."""
    return all(_is_cached(cache, cache_key(question, server.identity)) for question in questions)


def _is_cached(cache: Cache, key: str) -> bool:
    """Whether a valid reply is cached; the file may be damaged."""
    return key in cache and all(isinstance(cache[key].get(part), str) for part in Reply._fields)


def _cached_reply(record: Mapping[str, Any]) -> Reply:
    return Reply(record["text"], record["finish"], record["refusal"])
