"""The server of ``sealtune show --serve``, asked over HTTP."""

import http.client
import json
import threading

import pytest

from sealtune.cli.serve import FILE, POLICY, Server
from sealtune.core.errors import UserError

MADE = {"id": "a", "decision": "drop", "by": "Ada", "at": "2026-11-27T18:00:00.000Z"}


@pytest.fixture
def server(tmp_path):
    (tmp_path / "report.html").write_text(f'<meta content="{POLICY[0]} script-src">the report', encoding="utf-8")
    made = Server(tmp_path, ["a", "b"])
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def ask(server, method="GET", name="", body=None, **changes):
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    path = changes.pop("path", f"/{server.secret}/{name}")
    connection.request(method, path, body, changes)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_page_may_send_decisions_here_and_nowhere_else(server):
    status, text = ask(server)
    assert status == 200 and "the report" in text
    assert "connect-src 'self'; script-src" in text


def test_decisions_are_written_to_the_run(server, tmp_path):
    line = json.dumps(MADE) + "\n"
    assert ask(server, "PUT", FILE, line) == (200, "saved")
    assert (tmp_path / FILE).read_text() == line
    assert ask(server, name=FILE) == (200, line)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"id": "zzz", "decision": "drop", "by": "", "at": "2026-11-27"}', "no candidate has the id"),
        ('{"id": "a", "decision": "perhaps", "by": "", "at": "2026-11-27"}', "decision"),
        ("{", "not valid JSON"),
    ],
)
def test_what_is_no_decision_is_refused_and_nothing_is_lost(server, tmp_path, body, said):
    ask(server, "PUT", FILE, json.dumps(MADE))
    status, text = ask(server, "PUT", FILE, body)
    assert status == 400 and said in text
    assert json.loads((tmp_path / FILE).read_text()) == MADE


def test_other_pages_and_other_users_get_nothing(server, tmp_path):
    assert ask(server, path="/")[0] == ask(server, path=f"/{FILE}")[0] == 404
    assert ask(server, path=f"/{'x' * 22}/")[0] == 404
    assert ask(server, path=f"/{server.secret}/../../etc/passwd")[0] == 404
    assert ask(server, Host="evil.test")[0] == 404
    assert ask(server, "PUT", FILE, json.dumps(MADE), Host="evil.test")[0] == 404
    assert not (tmp_path / FILE).exists()
    assert server.server_address[0] == "127.0.0.1"


def test_too_much_at_once_is_refused(server):
    assert ask(server, "PUT", FILE, "", **{"Content-Length": str(10**12)})[0] == 413


def test_a_run_without_a_report_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no report.html; run `sealtune report"):
        Server(tmp_path, [])


def test_a_taken_port_is_one_line(server, tmp_path):
    with pytest.raises(UserError, match="choose another --port"):
        Server(tmp_path, [], server.server_address[1])
