"""Questions to a judge, each asked once only: what was answered before, in this run or an earlier one, is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from sealtune.evaluation.judge_protocol import Failure, Outcome, Question, Reply

if TYPE_CHECKING:
    from sealtune.core.console import Advance

Deliver = Callable[[str, Outcome], None]
"""Takes what came of the question with this key."""


class Cache(Protocol):
    """Where answers are kept: a dict, or a file."""

    def __contains__(self, key: str, /) -> bool:
        """Whether this question was answered before."""

    def __getitem__(self, key: str, /) -> Mapping[str, Any]:
        """The answer to it."""

    def __setitem__(self, key: str, record: Mapping[str, Any], /) -> None:
        """Keep an answer."""


class Server(Protocol):
    """Something that answers: a server behind HTTP, or a model in this process."""

    identity: Mapping[str, Any]
    """All that decides its answers beside the question: model, revision, address, temperature, longest answer."""

    def send(self, questions: Mapping[str, Question], deliver: Deliver) -> None:
        """Answer every question; ``deliver`` is called once for each, as soon as its outcome is known."""


def ask(questions: Sequence[Question], server: Server, cache: Cache, advance: Advance) -> list[Outcome]:
    """What came of each question, in order. Answers go into the cache as they arrive; failures do not.

    Raises:
        RunError: the server is gone, or refuses everything.
    """
    keys = [key_of(question, server.identity) for question in questions]
    missing = {key: question for key, question in zip(keys, questions, strict=True) if not _kept(cache, key)}
    failures: dict[str, Failure] = {}
    done = len(set(keys)) - len(missing)
    total = len(set(keys))

    def deliver(key: str, outcome: Outcome) -> None:
        nonlocal done
        if isinstance(outcome, Reply):
            cache[key] = {"judge": missing[key].judge, **server.identity, **outcome._asdict()}
        else:
            failures[key] = outcome
        done += 1
        advance(done, total, 1, 0, f"{len(failures)} failed" if failures else "")

    if missing:
        server.send(missing, deliver)
    return [failures[key] if key in failures else _reply(cache[key]) for key in keys]


def key_of(question: Question, identity: Mapping[str, Any]) -> str:
    """SHA-256 of all that decides the answer."""
    parts = [question.judge, question.wording, question.messages, dict(question.template), dict(identity)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("ascii")).hexdigest()


def _kept(cache: Cache, key: str) -> bool:
    """Whether an answer is kept that is one: a file may be damaged."""
    return key in cache and all(isinstance(cache[key].get(part), str) for part in Reply._fields)


def _reply(record: Mapping[str, Any]) -> Reply:
    return Reply(record["text"], record["finish"], record["refusal"])
