"""``sealtune show RUN --serve``: the report on this machine alone, where decisions are saved into the run's folder.

The server listens on the loopback address. Its address contains a secret, and it answers only to its own host name, so
neither other pages in the browser nor other users of the machine can read the rows or decide about them.
"""

from __future__ import annotations

import http.server
import secrets
from http import HTTPStatus
from pathlib import Path
from typing import Any

from sealtune.core.errors import UserError
from sealtune.core.files import Folder
from sealtune.data.decisions import parse_decisions

FILE = "decisions.jsonl"
MAX_BYTES = 64 * 2**20
POLICY = ("default-src 'none';", "default-src 'none'; connect-src 'self';")
"""What the page may do, as written, and as served: it may also send decisions here."""


class Server(http.server.ThreadingHTTPServer):
    """Serves the report of a run, and writes the decisions that are sent to it.

    Args:
        folder: The run's folder.
        ids: Those of the candidates.
        port: 0 for any free one.

    Raises:
        UserError: There is no report, or the port is taken.
    """

    daemon_threads = True

    def __init__(self, folder: Path, ids: Any, port: int = 0) -> None:
        self.folder, self.ids, self.secret = folder, ids, secrets.token_urlsafe(16)
        if not (folder / "report.html").is_file():
            raise UserError(f"{folder}: no report.html; run `sealtune report --out {folder}` first")
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise UserError(f"show: port {port} cannot be used ({error.strerror}); choose another --port") from None

    @property
    def host(self) -> str:
        """Name and port, as browsers give it."""
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def address(self) -> str:
        """Where the report is."""
        return f"http://{self.host}/{self.secret}/"

    def page(self) -> bytes:
        """The report, which may send decisions here."""
        text = (self.folder / "report.html").read_text(encoding="utf-8")
        return text.replace(*POLICY, 1).encode()

    def saved(self) -> bytes:
        """The decisions saved so far; empty without any."""
        path = self.folder / FILE
        return path.read_bytes() if path.is_file() else b""

    def save(self, content: bytes) -> None:
        """Write the decisions. Raises UserError if they are none, or about rows that there are not."""
        parse_decisions(content.split(b"\n"), FILE, self.ids)
        Folder(self.folder).write_text(FILE, content.decode("utf-8"))


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        """Send the report, or the decisions saved so far."""
        if self.path.endswith(FILE):
            if self._is_allowed(FILE):
                self._answer(HTTPStatus.OK, self.server.saved())
        elif self._is_allowed(""):
            self._answer(HTTPStatus.OK, self.server.page(), "text/html; charset=utf-8")

    def do_PUT(self) -> None:
        """Save decisions."""
        if not self._is_allowed(FILE):
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BYTES:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"too many decisions")
            return
        try:
            self.server.save(self.rfile.read(int(length)))
        except UserError as error:
            self._answer(HTTPStatus.BAD_REQUEST, str(error).encode())
        except OSError as error:
            self._answer(HTTPStatus.INSUFFICIENT_STORAGE, f"not saved: {error.strerror}".encode())
        else:
            self._answer(HTTPStatus.OK, b"saved")

    def _is_allowed(self, name: str) -> bool:
        mine = f"/{self.server.secret}/{name}"
        same = self.headers.get("Host") == self.server.host and secrets.compare_digest(
            self.path.encode(), mine.encode()
        )
        if not same:
            self._answer(HTTPStatus.NOT_FOUND, b"not found")
        return same

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: the terminal shows the address alone."""
