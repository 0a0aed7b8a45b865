"""A model behind HTTP: any server with OpenAI's chat API, through OpenAI's own client.

The client retries transient errors (429, 5xx, lost connections, time-outs) ``max_retries`` times, with exponential
backoff and jitter, and obeys Retry-After up to two minutes. This module adds what it lacks: a limit on concurrent
requests, a total time-out for a server that sends a byte now and then, requests that adapt to what the server takes,
and a circuit breaker for a server that does not answer at all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any

import httpx2
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, Omit, omit

from sealtune.core.config import JudgeConfig
from sealtune.core.errors import RunError, UserError
from sealtune.core.sanitize import MASK, excerpt, register_secret
from sealtune.evaluation.ask import OnOutcome
from sealtune.evaluation.chat_reply import parse_completion
from sealtune.evaluation.chat_request import ChatRequest, first_request, is_azure_deployment, names_model
from sealtune.evaluation.http_client import ERROR_IN_BODY, RedirectedError, environment_proxy, open_client
from sealtune.evaluation.judge_protocol import Failure, Outcome, Question, Reply
from sealtune.evaluation.server_error import read_error

logger = logging.getLogger(__name__)

MAX_CONSECUTIVE_FAILURES = 5
"""After this many failed questions in a row the remaining ones are not asked."""

MAX_RETRY_DELAY = 120.0
"""Seconds that the client waits at most between two attempts."""

CONNECT_TIMEOUT = 10.0
"""Seconds to wait at most for a connection."""

NO_COMPRESSION = {"Accept-Encoding": "identity"}
"""A few compressed bytes can expand without limit, so compression is neither requested nor accepted."""

ADDRESS_HINT = "base_url must be the address of an OpenAI-compatible API, usually ending in /v1: http://HOST:PORT/v1"


class Endpoint:
    """A server to ask."""

    def __init__(self, config: JudgeConfig) -> None:
        """Raises UserError if the environment variable of the key is not set, or a proxy's cannot be used."""
        self.config = config
        self.url = config.base_url or ""
        self.key = _read_key(config)
        if config.api_key_env:
            register_secret(self.key)
        self.proxy = environment_proxy(self.url, config.name)
        self.request = first_request(self.url)
        """How the server is asked; changed when the server refuses it and takes another."""
        self.identity: Mapping[str, Any] = {
            "model": config.model,
            "revision": config.revision,
            "base_url": config.base_url,
            "temperature": 0,
            "max_tokens": config.max_tokens,
        }

    @property
    def changes(self) -> Mapping[str, Any]:
        """What of ``identity`` the server did not take, and what it got instead."""
        return self.request.changes()

    def send(self, questions: Mapping[str, Question], on_outcome: OnOutcome) -> None:
        """Ask all questions, up to ``max_concurrency`` at a time.

        Raises:
            RunError: the server does not answer, or refuses every question.
        """
        breaker = CircuitBreaker(self.config, len(questions), on_outcome)
        _run(self._ask_all(iter(questions.items()), breaker))

    async def _ask_all(self, pending: Iterator[tuple[str, Question]], breaker: CircuitBreaker) -> None:
        known = asyncio.Event()

        async def work(number: int) -> None:
            if number > 0:  # the first question goes alone: what the server refuses is learned once
                with suppress(TimeoutError):
                    await asyncio.wait_for(known.wait(), self.config.timeout)
            for key, question in pending:  # shared: each worker takes the next question
                breaker.record(key, await self._ask(client, question))
                known.set()

        async with self._open_client() as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for number in range(self.config.max_concurrency):
                        group.create_task(work(number))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None

    def _open_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(
            base_url=self.url,  # not used: every request has its complete address
            api_key=self.key,
            timeout=httpx2.Timeout(self.config.timeout, connect=min(self.config.timeout, CONNECT_TIMEOUT)),
            max_retries=self.config.max_retries,
            default_headers=NO_COMPRESSION,
            http_client=open_client(self.url, self.proxy),
        )

    async def _ask(self, client: AsyncOpenAI, question: Question) -> Outcome:
        settings = self.config
        total_timeout = (settings.timeout + MAX_RETRY_DELAY) * (settings.max_retries + 1)
        try:
            async with asyncio.timeout(total_timeout):
                return self._mask_key(parse_completion(await self._request(client, question)))
        except (APITimeoutError, TimeoutError) as error:
            if isinstance(error.__cause__, httpx2.ConnectTimeout):
                return Failure(f"cannot be reached (no connection in time){self._via_proxy()}")
            return Failure(f"no answer within {settings.timeout:g} s")
        except APIConnectionError as error:
            return Failure(f"cannot be reached ({self._shorten(str(error.__cause__ or error))}){self._via_proxy()}")
        except RedirectedError as error:
            return Failure(self._shorten(str(error)))
        except APIStatusError as error:
            if _is_content_filter(error.body):
                return Reply("", "content_filter")
            return self._describe(error, question)
        except ValueError as error:
            body = str(error)
            hint = "" if body.lstrip().startswith("{") else f"; {ADDRESS_HINT}"
            return Failure(f"the answer is not a chat completion: {self._shorten(body)}{hint}")

    async def _request(self, client: AsyncOpenAI, question: Question) -> str:
        """The body of the answer as text; it may be anything. A request that is refused is changed and sent again."""
        request = started = self.request
        azure: dict[str, str | Omit] = {"Authorization": omit, "api-key": self.key}
        headers = azure if is_azure_deployment(self.url) else {}
        while True:
            try:
                response = await client.post(
                    request.urls[0],
                    cast_to=httpx2.Response,
                    body=request.body(question, self.config),
                    options={"headers": headers},
                )
            except APIStatusError as error:
                changed = request.after_refusal(error.status_code, error.response.text, self.config.model or "")
                if changed is None:
                    raise
                request = changed
            else:
                if request != started:
                    self._adopt(request)
                return response.text

    def _adopt(self, request: ChatRequest) -> None:
        """Use a request that the server took for all later questions."""
        if request.changes() != self.request.changes():
            _warn_once(f"{self.config.name}: {self.url} refuses a parameter: {request.describe()}")
        self.request = request

    def _describe(self, error: APIStatusError, question: Question) -> Failure:
        """An error response in words."""
        status, text = error.status_code, error.response.text
        message = self._shorten(read_error(text).message or text)
        shown = "HTTP 200 with an error" if ERROR_IN_BODY in error.response.extensions else f"HTTP {status}"
        reason = f"{shown}: {message}"
        if status in (404, 405) and not names_model(text, self.config.model or ""):
            reason += f"; {ADDRESS_HINT}" + (", without a query" if "?" in self.url else "")
        if question.chat_template_kwargs and "chat_template_kwargs" in text:
            reason += "; this format of the guard needs a server that takes chat_template_kwargs, such as vLLM"
        return Failure(reason, question_specific=status in (400, 413, 422))

    def _via_proxy(self) -> str:
        if self.proxy is None:
            return ""
        return f" through the proxy in {self.proxy.variable}; to ask it directly, list its host in NO_PROXY"

    def _mask_key(self, reply: Reply) -> Reply:
        if not self.config.api_key_env:
            return reply
        return Reply(*(part.replace(self.key, MASK) for part in reply))

    def _shorten(self, text: str) -> str:
        """The server's message on one line; some servers repeat the key."""
        shown = text.replace(self.key, MASK) if self.config.api_key_env else text
        return excerpt(shown, 200)


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
            after = f"stopped the run after {self.answered} answers" if self.answered else "gives no answer"
            raise RunError(
                f"evaluate: {self.config.name} at {self.config.base_url} {after}: {outcome.reason}; start the server "
                "or correct base_url, model or the key, then run the same command again; answers so far are kept"
            )


@cache
def _warn_once(line: str) -> None:
    """Every stage and every run of a comparison learns anew what a server takes."""
    logger.warning("%s", line)


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
