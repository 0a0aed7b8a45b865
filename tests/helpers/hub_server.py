"""The part of the Hugging Face hub's HTTP interface that uploads use, in a thread of the test."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGE = (".safetensors", ".parquet")


class Hub:
    """``repos`` has what was created, by kind and name; ``files`` what was committed, by kind and name.

    Tensors and tables are sent by git-lfs, as the hub asks for. ``refuse`` is a status with which every request is
    answered; ``paths`` are the requests so far.
    """

    def __init__(self, refuse=None):
        self.refuse, self.repos, self.files, self.stored = refuse, {}, {}, {}
        self.paths, self.tokens = [], set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, path, body):
        """The JSON to answer a request with."""
        match path.strip("/").split("/"):
            case ["api", "repos", "create"]:
                about = json.loads(body)
                name = "/".join(filter(None, [about.get("organization") or "me", about["name"]]))
                kind = about.get("type") or "model"
                self.repos[kind, name] = about
                return {"url": f"{self.url}/{'datasets/' if kind == 'dataset' else ''}{name}"}
            case ["api", "validate-yaml"]:
                return {"errors": [], "warnings": []}
            case ["api", kinds, owner, name, "preupload", _]:
                asked = [file["path"] for file in json.loads(body)["files"]]
                modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in asked}
                return {"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]}
            case [*_, "info", "lfs", "objects", "batch"]:
                sent = json.loads(body)["objects"]
                return {"transfer": "basic", "objects": [o | {"actions": self.upload(o["oid"])} for o in sent]}
            case ["api", kinds, owner, name, "commit", _]:
                lines = [json.loads(line) for line in body.splitlines()]
                added = {key: [e["value"] for e in lines if e["key"] == key] for key in ("file", "lfsFile")}
                files = {value["path"]: base64.b64decode(value["content"]) for value in added["file"]}
                files |= {value["path"]: self.stored[value["oid"]] for value in added["lfsFile"]}
                self.files[kinds.removesuffix("s"), f"{owner}/{name}"] = files
                place = f"{'datasets/' if kinds == 'datasets' else ''}{owner}/{name}"
                return {"commitUrl": f"{self.url}/{place}/commit/1", "commitOid": "1" * 40, "success": True}
        raise AssertionError(path)

    def upload(self, oid):
        """Where git-lfs sends a file."""
        return {"upload": {"href": f"{self.url}/store/{oid}"}}

    def _handler(self):
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                path = self.path.partition("?")[0]
                owner.paths.append(path)
                owner.tokens.add(self.headers.get("Authorization"))
                payload = {"error": "refused"} if owner.refuse else owner.answer(path, body)
                content = json.dumps(payload).encode()
                self._send(owner.refuse or 200, content)

            def do_PUT(self):
                content = self.rfile.read(int(self.headers["Content-Length"]))
                owner.stored[self.path.rpartition("/")[2]] = content
                self._send(200, b"")

            def _send(self, status, content):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        return Handler


@contextmanager
def serving_hub(refuse=None):
    hub = Hub(refuse)
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
