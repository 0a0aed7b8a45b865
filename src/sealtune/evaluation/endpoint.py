"""A model behind HTTP: any server with OpenAI's chat API, through OpenAI's own client.

The client retries transient errors (429, 5xx, lost connections, time-outs) ``max_retries`` times, with exponential
backoff and jitter, and obeys Retry-After up to two minutes. This module adds what it lacks: a limit on concurrent
requests, a total time-out for a server that sends a byte now and then, a limit on the size of an answer, and a circuit
breaker for a server that does not answer at all.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, DefaultAsyncHttpxClient

from sealtune.core.config import JudgeConfig
from sealtune.core.errors import RunError, UserError
from sealtune.core.sanitize import MASK, register_secret
from sealtune.evaluation.ask import OnOutcome
from sealtune.evaluation.judge_protocol import Failure, Outcome, Question, Reply

MAX_CONSECUTIVE_FAILURES = 5
"""After this many failed questions in a row the remaining ones are not asked."""

MAX_RETRY_DELAY = 120.0
"""Seconds that the client waits at most between two attempts."""

MAX_ANSWER_BYTES = 2**24
"""16 MiB, a few million words."""

NO_COMPRESSION = {"Accept-Encoding": "identity"}
"""A few compressed bytes can expand without limit, so compression is neither requested nor accepted."""


class Endpoint:
    """A server to ask."""

    def __init__(self, config: JudgeConfig) -> None:
        """Raises UserError if the environment variable of the key is not set."""
        self.config = config
        self.key = _read_key(config)
        if config.api_key_env:
            register_secret(self.key)
        self.identity: Mapping[str, Any] = {
            "model": config.model,
            "revision": config.revision,
            "base_url": config.base_url,
            "temperature": 0,
            "max_tokens": config.max_tokens,
        }

    def send(self, questions: Mapping[str, Question], on_outcome: OnOutcome) -> None:
        """Ask all questions, up to ``max_concurrency`` at a time.

        Raises:
            RunError: the server does not answer, or refuses every question.
        """
        breaker = CircuitBreaker(self.config, len(questions), on_outcome)
        _run(self._ask_all(iter(questions.items()), breaker))

    async def _ask_all(self, pending: Iterator[tuple[str, Question]], breaker: CircuitBreaker) -> None:
        async def work() -> None:
            for key, question in pending:  # shared: each worker takes the next question
                breaker.record(key, await self._ask(client, question))

        async with self._open_client() as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.config.max_concurrency):
                        group.create_task(work())
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None

    def _open_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(
            base_url=self.config.base_url,
            api_key=self.key,
            timeout=self.config.timeout,
            max_retries=self.config.max_retries,
            default_headers=NO_COMPRESSION,
            http_client=DefaultAsyncHttpxClient(event_hooks={"response": [_limit_size]}),
        )

    async def _ask(self, client: AsyncOpenAI, question: Question) -> Outcome:
        settings = self.config
        total_timeout = (settings.timeout + MAX_RETRY_DELAY) * (settings.max_retries + 1)
        try:
            async with asyncio.timeout(total_timeout):
                return self._mask_key(_parse_body(await self._request(client, question)))
        except (APITimeoutError, TimeoutError):
            return Failure(f"no answer within {settings.timeout:g} s")
        except APIConnectionError as error:
            return Failure(f"cannot be reached ({self._shorten(str(error.__cause__ or error))})")
        except APIStatusError as error:
            if _is_content_filter(error.body):
                return Reply("", "content_filter")
            reason = f"HTTP {error.status_code}: {self._shorten(error.response.text)}"
            return Failure(reason, question_specific=error.status_code in (400, 413, 422))
        except ValueError as error:
            return Failure(f"the answer is not a chat completion: {self._shorten(str(error))}")

    async def _request(self, client: AsyncOpenAI, question: Question) -> str:
        """The body of the answer as text; it may be anything."""
        kwargs = dict(question.chat_template_kwargs)
        messages: Any = list(question.messages)
        response = await client.chat.completions.with_raw_response.create(
            model=self.config.model or "",
            messages=messages,
            temperature=0,
            max_tokens=self.config.max_tokens,
            extra_body={"chat_template_kwargs": kwargs} if kwargs else None,
        )
        return str(response.text)

    def _mask_key(self, reply: Reply) -> Reply:
        if not self.config.api_key_env:
            return reply
        return Reply(*(part.replace(self.key, MASK) for part in reply))

    def _shorten(self, text: str) -> str:
        """The server's message on one line; some servers repeat the key."""
        shown = text.replace(self.key, MASK) if self.config.api_key_env else text
        return " ".join(shown.split())[:200]


class CircuitBreaker:
    """Passes outcomes on, and stops the run when the server keeps failing."""

    def __init__(self, config: JudgeConfig, questions: int, on_outcome: OnOutcome) -> None:
        self.config = config
        self.limit = min(MAX_CONSECUTIVE_FAILURES, questions)
        self.on_outcome = on_outcome
        self.answered = self.consecutive_failures = 0

    def record(self, key: str, outcome: Outcome) -> None:
        """Pass an outcome on. Raises RunError after too many consecutive failures."""
        self.on_outcome(key, outcome)
        if isinstance(outcome, Reply):
            self.answered, self.consecutive_failures = self.answered + 1, 0
            return
        if self.answered and outcome.question_specific:
            return
        self.consecutive_failures += 1
        if self.consecutive_failures >= self.limit:
            raise RunError(
                f"evaluate: {self.config.name} at {self.config.base_url} stopped the run after {self.answered} "
                f"answers: {outcome.reason}; start the server or correct base_url, model or the key, then run the same "
                "command again; answers so far are kept"
            )


class _SizeLimited(httpx2.AsyncByteStream):
    """A body that raises if it is too large."""

    def __init__(self, body: httpx2.AsyncByteStream) -> None:
        self.body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self.body:
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise httpx2.ReadError(f"its answer is larger than {MAX_ANSWER_BYTES // 2**20} MiB")
            yield part

    async def aclose(self) -> None:
        await self.body.aclose()


async def _limit_size(response: Any) -> None:
    """Called after the headers arrive and before the body is read, also for error responses."""
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise httpx2.ReadError(f"its answer is compressed ({encoding[:40]}), which was not requested")
    response.stream = _SizeLimited(response.stream)


def _read_key(config: JudgeConfig) -> str:
    if config.api_key_env is None:
        return "none"  # otherwise the client would send OPENAI_API_KEY to this server, whatever it is
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise UserError(f"evaluate.judges: {config.name}: the environment variable {config.api_key_env} is not set")
    if not re.fullmatch(r"[!-~]+", key):  # the HTTP client would refuse it, and show it
        raise UserError(
            f"evaluate.judges: {config.name}: the environment variable {config.api_key_env} contains whitespace, a "
            "control character or a non-ASCII character, which no key has"
        )
    return key


def _parse_body(text: str) -> Reply:
    """The first choice of a chat completion. Raises ValueError with the text if it is something else."""
    try:
        choice = json.loads(text)["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError(text) from None
    if not isinstance(content, str | None) or not isinstance(refusal, str | None):
        raise ValueError(text)
    return Reply(content or "", str(choice.get("finish_reason") or "stop"), refusal or "")


def _is_content_filter(body: object) -> bool:
    """Whether an error response comes from the server's content filter, which counts as a reply."""
    return isinstance(body, Mapping) and "content_filter" in str(body.get("code"))


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, also inside a notebook, whose event loop is already running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()
