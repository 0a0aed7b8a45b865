"""The HTTP client of a judge's server: proxies of the environment, redirects, and limits on what a server may send.

A server on this machine is never asked through a proxy, nor is a host in NO_PROXY.
"""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2
from openai import DefaultAsyncHttpxClient, OpenAIError

from sealtune.core.errors import UserError
from sealtune.evaluation.server_error import error_status

MAX_ANSWER_BYTES = 2**24
"""16 MiB, a few million words."""

ERROR_IN_BODY = "error_in_body"
"""Extension of a response that carried an error with HTTP 200."""


class RedirectedError(OpenAIError):
    """The server redirects to another host, or to an address where the question would be lost."""


class EnvironmentProxy(NamedTuple):
    """A proxy, and the environment variable that names it."""

    url: str
    variable: str


def open_client(url: str, proxy: EnvironmentProxy | None) -> httpx2.AsyncClient:
    """A client that asks the server at ``url``."""
    return DefaultAsyncHttpxClient(
        proxy=proxy and proxy.url,
        trust_env=False,  # the proxy was chosen here
        verify=httpx2.create_ssl_context() if _uses_tls(url, proxy) else True,  # with SSL_CERT_FILE
        event_hooks={"response": [_refuse_redirect, _limit_size, _reveal_error]},
    )


def environment_proxy(url: str, name: str) -> EnvironmentProxy | None:
    """The environment's proxy for a server, or None. Raises UserError if it cannot be used; ``name`` is the judge's."""
    host = urlsplit(url).hostname or ""
    if is_this_machine(host) or _is_excepted(url):
        return None
    proxies = urllib.request.getproxies()
    scheme = next((s for s in (urlsplit(url).scheme, "all") if proxies.get(s)), None)
    if scheme is None:
        return None
    given = proxies[scheme]
    variable = next((v for v in (f"{scheme}_proxy", f"{scheme}_proxy".upper()) if os.environ.get(v)), "the proxy")
    proxy = EnvironmentProxy(given if "://" in given else f"http://{given}", variable)
    _check(proxy, name)
    return proxy


def is_this_machine(host: str) -> bool:
    """Whether a host name is certainly this machine."""
    if host.casefold().rstrip(".") == "localhost" or host.casefold().endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def _is_excepted(url: str) -> bool:
    """Whether NO_PROXY lists the host: a name, a domain, an address, a network (10.0.0.0/8), or ``*``."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc) or urllib.request.proxy_bypass(parts.hostname or ""):
        return True
    listed = urllib.request.getproxies().get("no", "")
    return any(_is_in_network(parts.hostname or "", entry.strip()) for entry in listed.split(","))


def _is_in_network(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network.strip("[]"), strict=False)
    except ValueError:
        return False


def _check(proxy: EnvironmentProxy, name: str) -> None:
    """Raise UserError, without the proxy's address, which may contain a password."""
    try:
        parsed = httpx2.Proxy(proxy.url)
        usable = bool(parsed.url.host) and not any(c.isspace() for c in proxy.url)
    except (ValueError, httpx2.InvalidURL):
        usable = False
    where, ways = f"evaluate.judges: {name}: {proxy.variable}", "unset it, or list the server's host in NO_PROXY"
    if not usable:
        raise UserError(f"{where} is not the address of a proxy; write http://HOST:PORT, {ways}")
    if parsed.url.scheme.startswith("socks") and find_spec("socksio") is None:
        raise UserError(f"{where} is a SOCKS proxy, which needs a package; install httpx2[socks], {ways}")


def _uses_tls(url: str, proxy: EnvironmentProxy | None) -> bool:
    return url.startswith("https:") or bool(proxy and proxy.url.startswith("https:"))


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


async def _refuse_redirect(response: Any) -> None:
    """Neither a key nor a question goes to another host; and 301 to 303 would turn the request into an empty one."""
    if not response.has_redirect_location:
        return
    target = response.request.url.join(response.headers["location"])
    if target.origin != response.request.url.origin or response.status_code not in (307, 308):
        raise RedirectedError(
            f"redirects to {target}, where questions are not sent; if that is right, set base_url to it"
        )


async def _limit_size(response: Any) -> None:
    """Called after the headers arrive and before the body is read, also for error responses."""
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise httpx2.ReadError(f"its answer is compressed ({encoding[:40]}), which was not requested")
    response.stream = _SizeLimited(response.stream)


async def _reveal_error(response: Any) -> None:
    """Give an error that was sent with HTTP 200 its own status, so that it is retried like any other."""
    if response.status_code != 200:
        return
    await response.aread()
    if status := error_status(response.text):
        response.extensions[ERROR_IN_BODY] = True
        response.status_code = status
