"""A server with OpenAI's chat API in a thread of the test: it says what the test tells it to, well or badly."""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Bad(Exception):  # noqa: N818
    """Another answer than 200 with a chat completion."""

    def __init__(self, status, body=b"", kind="application/json", **headers):
        self.status, self.body, self.kind, self.headers = status, body, kind, headers


class JudgeServer:
    """``say(body)`` gives the text of an answer, a whole choice, or raises Bad; ``bodies`` are the requests so far."""

    def __init__(self, say, port=0):
        self.say, self.bodies, self.headers = say, [], []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def stop(self):
        """From now on connections are refused."""
        self.server.shutdown()
        self.server.server_close()

    def _handler(self):
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with owner.lock:
                    owner.bodies.append(body)
                    owner.headers.append({name.lower(): value for name, value in self.headers.items()})
                    owner.under_way += 1
                    owner.most_under_way = max(owner.most_under_way, owner.under_way)
                status, payload, kind, headers = self._answer(body)
                with owner.lock:  # before it is sent, or the client may be faster with its next request
                    owner.under_way -= 1
                self._send(status, payload, kind, headers)

            def _answer(self, body):
                try:
                    said = owner.say(body)
                except Bad as bad:
                    return bad.status, bad.body, bad.kind, bad.headers
                choice = said if isinstance(said, dict) else {"message": {"role": "assistant", "content": said}}
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
def serving(say, port=0):
    server = JudgeServer(say, port)
    try:
        yield server
    finally:
        server.stop()


def signed(body, **fields):
    """A verdict with these fields and the mark of the prompt, as a good judge gives it."""
    mark = re.search(r"mark-[0-9a-f]{16}", question_of(body))[0]
    return json.dumps({"mark": mark, **fields})


def question_of(body):
    """The text of the last turn that the judge was shown."""
    return body["messages"][-1]["content"]
