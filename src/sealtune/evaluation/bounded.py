"""An HTTP client for servers that are not trusted: it reads no more of an answer than any judge has to say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
from openai import DefaultAsyncHttpxClient

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
