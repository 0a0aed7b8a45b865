"""A judge behind HTTP: any server with OpenAI's chat API, asked by OpenAI's own client.

The client retries what may pass (429, 5xx, lost connections, time-outs) with growing, jittered pauses, obeys
Retry-After up to two minutes, and ends after ``max_retries``. Here is what it lacks: a bound on requests under way, an
end for a server that sends a byte now and then, and the moment to stop where nothing is answered any more; in
``bounded`` a bound on the size of an answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx2
from openai import DefaultAsyncHttpxClient

from sealtune.core.config import JudgeConfig
from sealtune.core.errors import RunError, UserError
from sealtune.core.sanitize import MASK, register_secret
from sealtune.evaluation.ask import Deliver
from sealtune.evaluation.judge_protocol import Failure, Outcome, Question, Reply

if TYPE_CHECKING:
    from openai import AsyncOpenAI

GIVE_UP_AFTER = 5
"""Failed questions in a row, with no answer among them, after which the rest is not asked."""

LONGEST_PAUSE = 120.0
"""Seconds that the client waits at most between two tries."""


class Endpoint:
    """A server to ask."""

    def __init__(self, config: JudgeConfig) -> None:
        """Raises UserError where the key's variable is not set."""
        self.config = config
        self.key = _key(config)
        if config.api_key_env:
            register_secret(self.key)
        self.identity: Mapping[str, Any] = {
            "model": config.model,
            "revision": config.revision,
            "base_url": config.base_url,
            "temperature": 0,
            "max_tokens": config.max_tokens,
        }

    def send(self, questions: Mapping[str, Question], deliver: Deliver) -> None:
        """Ask all, ``max_concurrency`` at a time. Raises RunError where the server is gone or refuses everything."""
        _run(self._ask_all(iter(questions.items()), _Patience(self.config, len(questions), deliver)))

    async def _ask_all(self, waiting: Iterator[tuple[str, Question]], patience: _Patience) -> None:
        from openai import AsyncOpenAI

        from sealtune.evaluation.endpoint import PLAIN, bounded_client

        settings = self.config
        client = AsyncOpenAI(
            base_url=settings.base_url,
            api_key=self.key,
            timeout=settings.timeout,
            max_retries=settings.max_retries,
            default_headers=PLAIN,
            http_client=bounded_client(),
        )

        async def work() -> None:
            for key, question in waiting:  # shared: each worker takes the next question
                patience.deliver(key, await self._ask(client, question))

        async with client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(settings.max_concurrency):
                        group.create_task(work())
            except ExceptionGroup as stopped:
                raise stopped.exceptions[0] from None

    async def _ask(self, client: AsyncOpenAI, question: Question) -> Outcome:
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        settings = self.config
        longest = (settings.timeout + LONGEST_PAUSE) * (settings.max_retries + 1)
        try:
            async with asyncio.timeout(longest):
                return self._without_key(_read_body(await self._request(client, question)))
        except (APITimeoutError, TimeoutError):
            return Failure(f"no answer within {settings.timeout:g} s")
        except APIConnectionError as error:
            return Failure(f"cannot be reached ({self._in_short(str(error.__cause__ or error))})")
        except APIStatusError as error:
            if _is_filtered(error.body):
                return Reply("", "content_filter")
            reason = f"HTTP {error.status_code}: {self._in_short(error.response.text)}"
            return Failure(reason, error.status_code in (400, 413, 422))
        except ValueError as error:
            return Failure(f"answered with something else than a chat completion: {self._in_short(str(error))}")

    async def _request(self, client: AsyncOpenAI, question: Question) -> str:
        """The body of the answer, as text: what a server sends is not to be trusted to be JSON."""
        extra = {"chat_template_kwargs": dict(question.template)} if question.template else None
        messages: Any = list(question.messages)
        response = await client.chat.completions.with_raw_response.create(
            model=self.config.model or "",
            messages=messages,
            temperature=0,
            max_tokens=self.config.max_tokens,
            extra_body=extra,
        )
        return str(response.text)

    def _without_key(self, reply: Reply) -> Reply:
        if not self.config.api_key_env:
            return reply
        return Reply(*(part.replace(self.key, MASK) for part in reply))

    def _in_short(self, text: str) -> str:
        """One line of what the server said; some repeat the key that they were given."""
        shown = text.replace(self.key, MASK) if self.config.api_key_env else text
        return " ".join(shown.split())[:200]


class _Patience:
    """Hands outcomes on until it is plain that the server answers nothing any more."""

    def __init__(self, config: JudgeConfig, questions: int, deliver: Deliver) -> None:
        self.config = config
        self.limit = min(GIVE_UP_AFTER, questions)
        self.hand_on = deliver
        self.answered = self.in_a_row = 0

    def deliver(self, key: str, outcome: Outcome) -> None:
        """Raises RunError at the last failure that is borne."""
        self.hand_on(key, outcome)
        if isinstance(outcome, Reply):
            self.answered, self.in_a_row = self.answered + 1, 0
            return
        if self.answered and outcome.of_question:
            return
        self.in_a_row += 1
        if self.in_a_row >= self.limit:
            raise RunError(
                f"evaluate: judge {self.config.name} at {self.config.base_url} stopped the run after {self.answered} "
                f"answers: {outcome.reason}; start the server or correct base_url, model or the key, then run the same "
                "command again: answers that came are kept"
            )


def _key(config: JudgeConfig) -> str:
    if config.api_key_env is None:
        return "none"  # the client would else take OPENAI_API_KEY and show it to whatever server this is
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise UserError(f"evaluate.judges: {config.name}: the environment variable {config.api_key_env} is not set")
    if not re.fullmatch(r"[!-~]+", key):  # the HTTP client would refuse it, and show it
        raise UserError(
            f"evaluate.judges: {config.name}: the environment variable {config.api_key_env} holds a blank, a control "
            "character or a letter beyond ASCII; no key has one"
        )
    return key


def _read_body(text: str) -> Reply:
    """The first choice of a chat completion. Raises ValueError with what was found instead."""
    try:
        choice = json.loads(text)["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError(text) from None
    if not isinstance(content, str | None) or not isinstance(refusal, str | None):
        raise ValueError(text)
    return Reply(content or "", str(choice.get("finish_reason") or "stop"), refusal or "")


def _is_filtered(body: object) -> bool:
    """Whether a server refused by its content filter, which is an answer of a kind."""
    return isinstance(body, Mapping) and "content_filter" in str(body.get("code"))


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, also from within a notebook, whose event loop is busy with the cell that called."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


LARGEST_ANSWER = 2**24
"""Bytes of an answer; 16 MiB is some million words."""


PLAIN = {"Accept-Encoding": "identity"}
"""A few packed bytes may stand for any number: nothing packed is asked for, or accepted."""


def bounded_client() -> DefaultAsyncHttpxClient:
    """The client that OpenAI's library makes for itself, with a bound on every answer, those of errors among them."""
    return DefaultAsyncHttpxClient(event_hooks={"response": [_bound]})


async def _bound(response: Any) -> None:
    """Called once the head of an answer is there and before its body is read."""
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise httpx2.ReadError(f"its answer is packed ({encoding[:40]}), which was not asked for")
    response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    """A body that ends in an error where it is too large."""

    def __init__(self, body: httpx2.AsyncByteStream) -> None:
        self.body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self.body:
            size += len(part)
            if size > LARGEST_ANSWER:
                raise httpx2.ReadError(f"its answer has more than {LARGEST_ANSWER // 2**20} MiB")
            yield part

    async def aclose(self) -> None:
        await self.body.aclose()
