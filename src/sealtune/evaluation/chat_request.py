"""What is sent to a server with OpenAI's chat API: the address, and the parameters that this server takes.

Servers differ. Newer models want ``max_completion_tokens`` in place of ``max_tokens`` and take no temperature; some
addresses are given without ``/v1``, or with the whole path. A request that the server refuses for such a reason is
changed and sent once more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sealtune.core.config import JudgeConfig
from sealtune.evaluation.judge_protocol import Question
from sealtune.evaluation.server_error import read_error

PATH = "/chat/completions"
LIMITS = ("max_tokens", "max_completion_tokens", None)
"""Names of the parameter that limits the reply, in the order in which they are tried; None: no limit is sent."""


@dataclass(frozen=True)
class ChatRequest:
    """How a server is asked.

    Attributes:
        urls: The address to use, and those to try if nothing is there.
        limit: Name of the parameter that limits the reply, or None.
        temperature: Whether temperature 0 is sent; otherwise the server's own applies.
    """

    urls: tuple[str, ...]
    limit: str | None = LIMITS[0]
    temperature: bool = True

    def body(self, question: Question, config: JudgeConfig) -> dict[str, Any]:
        """The body of the request."""
        body: dict[str, Any] = {"model": config.model or "", "messages": list(question.messages)}
        if self.temperature:
            body["temperature"] = 0
        if self.limit:
            body[self.limit] = config.max_tokens
        if question.chat_template_kwargs:  # part of the question: never left out
            body["chat_template_kwargs"] = dict(question.chat_template_kwargs)
        return body

    def after_refusal(self, status: int, text: str, model: str) -> ChatRequest | None:
        """The request to try after this answer; None if the refusal has another reason, or nothing is left to try."""
        if status in (404, 405):
            elsewhere = self.urls[1:] if not names_model(text, model) else ()
            return replace(self, urls=elsewhere) if elsewhere else None
        if status not in (400, 422):
            return None
        error = read_error(text)
        named = error.named(filter(None, ("temperature" if self.temperature else None, self.limit)))
        changed = self
        if "temperature" in named:
            changed = replace(changed, temperature=False)
        if self.limit in named and not error.is_about_value():
            changed = replace(changed, limit=LIMITS[LIMITS.index(self.limit) + 1])
        return changed if changed != self else None

    def changes(self) -> dict[str, Any]:
        """What differs from the first attempt, to be recorded with the replies; addresses do not count."""
        changes: dict[str, Any] = {} if self.temperature else {"temperature": None}
        return changes if self.limit == LIMITS[0] else changes | {"limit_parameter": self.limit}

    def describe(self) -> str:
        """The changes in words; empty if there are none."""
        parts = [] if self.temperature else ["the temperature is not set, so replies may differ from run to run"]
        if self.limit != LIMITS[0]:
            parts.append(f"the reply is limited by {self.limit}" if self.limit else "the reply is not limited")
        return "; ".join(parts)


def first_request(base_url: str) -> ChatRequest:
    """The request to try first.

    ``base_url`` is the address of the API (``http://host/v1``), of the server (``http://host``) or of the chat API
    itself (``http://host/v1/chat/completions``); its query (``?api-version=...``) is kept.
    """
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/")
    if path.endswith(PATH):
        paths = [path]
    elif path.endswith("/v1"):
        paths = [path + PATH]
    else:
        paths = [path + PATH, f"{path}/v1{PATH}"]
    return ChatRequest(tuple(urlunsplit(parts._replace(path=found, fragment="")) for found in paths))


def is_azure_deployment(base_url: str) -> bool:
    """Whether this is a deployment on Azure, which takes the key in a header of its own."""
    return "/openai/deployments/" in urlsplit(base_url).path


def names_model(text: str, model: str) -> bool:
    """Whether an answer 404 is about the model, so that the address is right."""
    words = "|".join(map(re.escape, filter(None, ("model", "deployment", model))))
    return re.search(rf"(?<!\w)(?:{words})(?!\w)", read_error(text).message, re.IGNORECASE) is not None
