"""A server with OpenAI's chat API, in a thread of the test, that answers whatever the test wants."""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sealtune.core.types import Response


class Bad(Exception):  # noqa: N818
    """An answer other than 200 with a chat completion."""

    def __init__(self, status, body=b"", kind="application/json", **headers):
        self.status, self.body, self.kind, self.headers = status, body, kind, headers


class JudgeServer:
    """``reply(body)`` returns a text or a full choice, or raises Bad; ``bodies`` are the requests so far.

    ``path`` is the only path with an API; None: every path has one.
    """

    def __init__(self, reply, port=0, path=None):
        self.reply, self.path = reply, path
        self.bodies, self.headers, self.paths = [], [], []
        self.concurrent = self.max_concurrent = 0
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def stop(self):
        """Refuse connections from now on."""
        self.server.shutdown()
        self.server.server_close()

    def _handler(self):
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with owner.lock:
                    owner.bodies.append(body)
                    owner.paths.append(self.path)
                    owner.headers.append({name.lower(): value for name, value in self.headers.items()})
                    owner.concurrent += 1
                    owner.max_concurrent = max(owner.max_concurrent, owner.concurrent)
                status, payload, kind, headers = self._answer(body)
                with owner.lock:  # before sending, because the client may send its next request at once
                    owner.concurrent -= 1
                self._send(status, payload, kind, headers)

            def _answer(self, body):
                if owner.path is not None and self.path.partition("?")[0] != owner.path:
                    return 404, b'{"detail": "Not Found"}', "application/json", {}
                try:
                    reply = owner.reply(body)
                except Bad as bad:
                    return bad.status, bad.body, bad.kind, bad.headers
                choice = reply if isinstance(reply, dict) else {"message": {"role": "assistant", "content": reply}}
                choice = {"index": 0, "finish_reason": "stop"} | choice
                good = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
                return 200, json.dumps(good).encode(), "application/json", {}

            def _send(self, status, body, kind, headers):
                self.send_response(status)
                for name, value in {"Content-Type": kind, "Content-Length": len(body), **headers}.items():
                    self.send_header(name.replace("_", "-"), str(value))
                with suppress(ConnectionError):  # the client may have given up
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *args):
                pass

        return Handler


@contextmanager
def serving(reply, port=0, path=None):
    server = JudgeServer(reply, port, path)
    try:
        yield server
    finally:
        server.stop()


def refusing(*parameters, reply=lambda body: "ok"):
    """A reply function of a model that refuses these parameters, as OpenAI does."""

    def answer(body):
        for name in parameters:
            if name in body:
                error = {"message": f"Unsupported parameter: '{name}'", "param": name, "code": "unsupported_parameter"}
                raise Bad(400, json.dumps({"error": error}).encode())
        return reply(body)

    return answer


def signed(body, **fields):
    """A verdict with these fields and the nonce of the prompt."""
    nonce = re.search(r"nonce-[0-9a-f]{16}", question_of(body))[0]
    return json.dumps({"nonce": nonce, **fields})


def verdict_json(**fields):
    """A verdict with these fields and the nonce ``m``."""
    return json.dumps({"nonce": "m", **fields})


def response_of(text="an answer", model="tuned", number=0, kind="harmful"):
    """A response to judge."""
    return Response(f"r{number}", model, "set", kind, "a request", text, 3, True)


def question_of(body):
    """The text of the last turn."""
    return body["messages"][-1]["content"]
