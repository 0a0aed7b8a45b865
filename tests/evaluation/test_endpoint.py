"""The client of a judge's server, against servers that fail in many ways."""

import gzip
import re
import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from helpers.judge_server import Bad, question_of, refusing, serving
from sealtune.core.config import JudgeConfig
from sealtune.core.errors import RunError, UserError
from sealtune.evaluation import endpoint
from sealtune.evaluation.answer_cache import AnswerCache
from sealtune.evaluation.ask import ask
from sealtune.evaluation.endpoint import Endpoint
from sealtune.evaluation.judge_protocol import Failure, Question, Reply


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    endpoint._warn_once.cache_clear()
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def questions(n, start=0):
    return [Question("j", "w", ({"role": "user", "content": f"q{i}"},)) for i in range(start, start + n)]


def send(url, asked, cache=None, **settings):
    config = JudgeConfig(name="j", base_url=url, model="m", **{"max_retries": 2, "timeout": 5} | settings)
    return ask(asked, Endpoint(config), {} if cache is None else cache, lambda *_, **__: None)


def test_replies_are_in_the_order_of_the_questions():
    def reply(body):
        number = int(question_of(body)[1:])
        time.sleep(0.02 * (5 - number))
        return f"a{number}"

    with serving(reply) as server:
        assert send(server.url, questions(5)) == [Reply(f"a{i}") for i in range(5)]
        body = server.bodies[0]
    assert (body["temperature"], body["max_tokens"], body["model"]) == (0, 512, "m")


def test_equal_questions_are_asked_once():
    with serving(lambda body: "a") as server:
        assert send(server.url, questions(1) * 3) == [Reply("a")] * 3
        assert len(server.bodies) == 1


def test_a_rate_limit_is_obeyed():
    since = time.monotonic()
    times = []

    def reply(body):
        times.append(time.monotonic() - since)
        if len(times) == 1:
            raise Bad(429, b"{}", Retry_After=1)
        return "ok"

    with serving(reply) as server:
        assert send(server.url, questions(1)) == [Reply("ok")]
    assert len(times) == 2 and times[1] - times[0] >= 1


def test_retries_end_and_the_failure_is_reported():
    def reply(body):
        if question_of(body) == "q1":
            raise Bad(500, b'{"error": {"message": "out of memory"}}')
        return "ok"

    with serving(reply) as server:
        first, second, third = send(server.url, questions(3), max_retries=2)
        asked = [question_of(body) for body in server.bodies]
    assert first == third == Reply("ok")
    assert isinstance(second, Failure) and "500" in second.reason and "out of memory" in second.reason
    assert asked.count("q1") == 3


def test_failures_are_not_cached():
    cache, broken = {}, [True]

    def reply(body):
        if broken[0] and question_of(body) == "q1":
            raise Bad(500)
        return "ok"

    with serving(reply) as server:
        assert isinstance(send(server.url, questions(2), cache, max_retries=0)[1], Failure)
        broken[0] = False
        assert send(server.url, questions(2), cache) == [Reply("ok")] * 2
        assert len(server.bodies) == 3


@pytest.mark.parametrize(
    "body, kind",
    [
        (b"<html>\n<title>Welcome</title> to the gate</html>", "text/html"),
        (b"<html>\n<title>Welcome</title></html>", "application/json"),
        (b'{"choices": []}', "application/json"),
        (b'{"choices": [{"message": {"content": [1]}}]}', "application/json"),
        (b"[1, 2]", "application/json"),
        (b"", "application/json"),
        (b"\xff\xfe\x00", "text/plain"),
    ],
)
def test_an_answer_that_is_not_a_chat_completion_is_reported_on_one_line(body, kind):
    def reply(request):
        if question_of(request) == "q0":
            return "ok"
        raise Bad(200, body, kind)

    with serving(reply) as server:
        good, bad = send(server.url, questions(2))
    assert good == Reply("ok")
    assert isinstance(bad, Failure) and "not a chat completion" in bad.reason and "\n" not in bad.reason


@pytest.mark.parametrize("status", [200, 500])
def test_an_endless_answer_is_aborted(status):
    sent = [0]

    def flood(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n\r\n" % status)
        while sent[0] < 2**30:
            sent[0] += connection.send(b" " * 2**16)

    with listening(flood) as url, pytest.raises(RunError, match="its answer is larger than 16 MiB"):
        send(url, questions(1), timeout=60, max_retries=0)
    assert sent[0] < 2**26


def test_a_compressed_answer_is_refused():
    """A few kilobytes may decompress to gigabytes."""

    def reply(body):
        raise Bad(200, gzip.compress(b" " * 2**20), Content_Encoding="gzip")

    with serving(reply) as server, pytest.raises(RunError, match=r"its answer is compressed \(gzip\)"):
        send(server.url, questions(1), max_retries=0)
    assert server.headers[0]["accept-encoding"] == "identity"


@contextmanager
def listening(serve):
    """The URL of a server that passes every connection to a function, in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with suppress(OSError), connection:
                    serve(connection)

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    listener.close()


def test_a_server_that_hangs_times_out():
    held = threading.Event()

    def reply(body):
        if question_of(body) == "q1":
            held.wait(5)
        return "ok"

    with serving(reply) as server:
        good, bad = send(server.url, questions(2), timeout=0.2, max_retries=1)
        held.set()
    assert good == Reply("ok")
    assert isinstance(bad, Failure) and "no answer within 0.2 s" in bad.reason


def test_a_server_that_sends_single_bytes_times_out(monkeypatch):
    """Each byte arrives in time, the full answer never does."""

    def drip(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
        while True:
            connection.sendall(b" ")
            time.sleep(0.05)

    monkeypatch.setattr(endpoint, "MAX_RETRY_DELAY", 0.2)
    since = time.monotonic()
    with listening(drip) as url, pytest.raises(RunError, match="no answer within"):
        send(url, questions(1), timeout=0.3, max_retries=0)
    assert time.monotonic() - since < 2


def test_a_dead_server_stops_the_run_at_once_with_a_one_line_error():
    with serving(lambda body: "a") as server:
        url = server.url
    with pytest.raises(RunError) as error:
        send(url, questions(500), max_retries=1)
    assert url in str(error.value) and "cannot be reached" in str(error.value) and "\n" not in str(error.value)


def test_replies_before_a_server_died_are_not_paid_for_twice(tmp_path):
    path = tmp_path / "cache.jsonl"
    dies_after = 7

    def reply(body):
        if len(server.bodies) > dies_after:
            threading.Thread(target=server.stop).start()
            raise Bad(503)
        return question_of(body)

    with serving(reply) as server, pytest.raises(RunError, match="after 7 answers"):
        send(server.url, questions(30), AnswerCache(path), max_concurrency=1, max_retries=1)
    assert len(path.read_text().splitlines()) == 7

    with serving(question_of, server.port) as again:
        assert send(again.url, questions(30), AnswerCache(path)) == [Reply(f"q{i}") for i in range(30)]
        assert sorted(int(question_of(body)[1:]) for body in again.bodies) == list(range(7, 30))


def test_single_failures_do_not_stop_a_run():
    def reply(body):
        if int(question_of(body)[1:]) % 2:
            raise Bad(500)
        return "ok"

    with serving(reply) as server:
        found = send(server.url, questions(40), max_retries=0, max_concurrency=1)
    assert sum(isinstance(outcome, Failure) for outcome in found) == 20


def test_questions_that_are_too_long_do_not_stop_a_run():
    def reply(body):
        if question_of(body) != "q0":
            raise Bad(400, b'{"error": {"message": "context length exceeded"}}')
        return "ok"

    with serving(reply) as server:
        found = send(server.url, questions(12), max_concurrency=1)
        assert len(server.bodies) == 12  # such a request is not retried
    assert found[0] == Reply("ok") and all("context length" in outcome.reason for outcome in found[1:])


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_server_that_refuses_everything_stops_the_run(status):
    def reply(body):
        raise Bad(status, b'{"error": {"message": "no such model"}}')

    with serving(reply) as server:
        with pytest.raises(RunError, match=f"HTTP {status}.*no such model"):
            send(server.url, questions(100))
        assert len(server.bodies) <= endpoint.MAX_CONSECUTIVE_FAILURES + 8


@pytest.mark.parametrize("bound", [1, 3])
def test_concurrent_requests_are_limited(bound):
    def reply(body):
        time.sleep(0.02)
        return "a"

    with serving(reply) as server:
        send(server.url, questions(20), max_concurrency=bound)
        assert server.max_concurrent == bound


def test_a_content_filter_counts_as_a_reply():
    def reply(body):
        if question_of(body) == "q0":
            raise Bad(400, b'{"error": {"code": "content_filter", "message": "no"}}')
        if question_of(body) == "q1":
            return {"message": {"role": "assistant", "content": None}, "finish_reason": "content_filter"}
        return {"message": {"role": "assistant", "content": None, "refusal": "I will not judge that"}}

    with serving(reply) as server:
        first, second, third = send(server.url, questions(3))
    assert first == second == Reply("", "content_filter")
    assert third == Reply("", "stop", "I will not judge that")


def test_the_key_is_read_from_its_variable_and_never_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("JUDGE_KEY", "sesame-123")

    def reply(body):
        if question_of(body) == "q0":
            return "ok"
        raise Bad(403, b'{"error": {"message": "bad key sesame-123"}}')

    with serving(reply) as server:
        cache = AnswerCache(tmp_path / "cache.jsonl")
        config = {"api_key_env": "JUDGE_KEY", "max_concurrency": 1}
        _, refused = send(server.url, questions(2), cache, **config)
        assert server.headers[0]["authorization"] == "Bearer sesame-123"
    assert "***" in refused.reason and "sesame" not in refused.reason
    assert "sesame" not in (tmp_path / "cache.jsonl").read_text()


def test_no_key_is_sent_to_a_server_without_api_key_env(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sesame-123")
    with serving(lambda body: "a") as server:
        send(server.url, questions(1))
        assert server.headers[0]["authorization"] == "Bearer none"


def test_a_key_that_is_not_set_is_an_error():
    with pytest.raises(UserError, match="NOT_SET_ANYWHERE is not set"):
        send("http://127.0.0.1:9/v1", questions(1), api_key_env="NOT_SET_ANYWHERE")


def test_it_works_inside_a_running_event_loop():
    import asyncio

    async def cell(url):
        return send(url, questions(2))

    with serving(lambda body: "a") as server:
        assert asyncio.run(cell(server.url)) == [Reply("a")] * 2


def test_the_cache_key_covers_everything_that_a_reply_depends_on():
    from sealtune.evaluation.ask import cache_key

    base = {"name": "j", "base_url": "http://a/v1", "model": "m"}
    changes = [{}, {"model": "n"}, {"revision": "r"}, {"base_url": "http://b/v1"}, {"max_tokens": 9}]
    identities = [Endpoint(JudgeConfig(**base | change)).identity for change in changes]
    question = questions(1)[0]
    others = [
        question._replace(judge="k"),
        question._replace(prompt_sha256="x"),
        question._replace(chat_template_kwargs={"guideline": "g"}),
        question._replace(messages=({"role": "user", "content": "other"},)),
    ]
    keys = [cache_key(question, identity) for identity in identities] + [cache_key(q, identities[0]) for q in others]
    assert len(set(keys)) == len(keys)
    slow = Endpoint(JudgeConfig(**base, timeout=1, max_retries=0, max_concurrency=2)).identity
    assert cache_key(question, slow) == keys[0]
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)


@pytest.mark.parametrize("key", ["sesame 123", "sesame\n123", "sesame-é-123", "sesame\x01123", "\u202esesame"])
def test_a_key_that_does_not_fit_into_a_header_is_refused_and_not_shown(monkeypatch, key):
    monkeypatch.setenv("JUDGE_KEY", key)
    with pytest.raises(UserError, match="JUDGE_KEY contains whitespace") as error:
        send("http://127.0.0.1:9/v1", questions(1), api_key_env="JUDGE_KEY")
    assert "sesame" not in str(error.value)


def test_a_key_that_the_server_repeats_is_masked(monkeypatch, tmp_path):
    monkeypatch.setenv("JUDGE_KEY", "sesame-123")
    path = tmp_path / "cache.jsonl"

    def reply(body):
        if question_of(body) == "q0":
            return "you are sesame-123"
        return {"message": {"role": "assistant", "content": None, "refusal": "not for sesame-123"}}

    with serving(reply) as server:
        found = send(server.url, questions(2), AnswerCache(path), api_key_env="JUDGE_KEY")
    assert found == [Reply("you are ***"), Reply("", "stop", "not for ***")]
    assert "sesame" not in path.read_text()


def test_no_client_error_shows_the_key(monkeypatch):
    """The error and its cause both contain the key."""
    from types import SimpleNamespace

    from openai import APIConnectionError

    monkeypatch.setenv("JUDGE_KEY", "sesame-123")
    request = SimpleNamespace(method="POST", url="http://me:sesame-123@host/v1")

    async def fail(self, client, question):
        raise APIConnectionError(message="Bearer sesame-123", request=request) from ValueError("header 'sesame-123'")

    monkeypatch.setattr(Endpoint, "_request", fail)
    with pytest.raises(RunError, match=r"cannot be reached \(header '\*\*\*'\)") as error:
        send("http://127.0.0.1:9/v1", questions(9), api_key_env="JUDGE_KEY")
    assert "sesame" not in str(error.value)


# -- servers as they are in the field ----------------------------------------------------------------------------------


@pytest.mark.parametrize("refused", [["max_tokens"], ["temperature"], ["temperature", "max_tokens"]])
def test_a_parameter_that_is_refused_is_left_out_from_then_on(refused, caplog):
    cache = {}
    with serving(refusing(*refused)) as server:
        assert send(server.url, questions(30), cache) == [Reply("ok")] * 30
        assert len(server.bodies) == 30 + len(refused)
    assert not set(refused) & set(server.bodies[-1])
    assert server.bodies[-1].get("max_completion_tokens") == (512 if "max_tokens" in refused else None)
    told = [r.getMessage() for r in caplog.records if "refuses a parameter" in r.getMessage()]
    assert len(told) == 1 and ("temperature is not set" in told[0]) == ("temperature" in refused)
    expected = {"temperature": None if "temperature" in refused else 0}
    expected |= {"limit_parameter": "max_completion_tokens"} if "max_tokens" in refused else {}
    assert all(expected.items() <= record.items() for record in cache.values())


def test_replies_to_a_changed_request_are_found_in_the_cache_again():
    cache = {}
    with serving(refusing("max_tokens")) as server:
        send(server.url, questions(3), cache)
        asked = len(server.bodies)
        assert send(server.url, questions(3), cache) == [Reply("ok")] * 3
        assert len(server.bodies) == asked


def test_a_request_is_changed_only_if_the_server_then_answers():
    def reply(body):
        if question_of(body) == "q0":
            raise Bad(400, b'{"error": {"message": "temperature: the question is too long"}}')
        return "ok"

    with serving(reply) as server:
        first, second = send(server.url, questions(2))
    assert isinstance(first, Failure) and "too long" in first.reason
    assert second == Reply("ok") and server.bodies[-1]["temperature"] == 0


def test_a_guideline_that_the_server_does_not_take_is_not_left_out():
    asked = [questions(1)[0]._replace(chat_template_kwargs={"guideline": "g"})]
    with serving(refusing("chat_template_kwargs")) as server, pytest.raises(RunError, match="such as vLLM"):
        send(server.url, asked)


@pytest.mark.parametrize("given", ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/v1?api-version=2"])
def test_an_address_may_be_written_in_several_ways(given):
    with serving(lambda body: "ok", path="/v1/chat/completions") as server:
        root = server.url.removesuffix("/v1")
        assert send(root + given, questions(20), max_concurrency=4) == [Reply("ok")] * 20
        assert len(server.paths) <= 21  # what was found is remembered
    assert server.paths[-1] == "/v1/chat/completions" + ("?api-version=2" if "?" in given else "")


def test_a_wrong_address_says_what_it_must_be():
    with serving(lambda body: "ok", path="/v1/chat/completions") as server:
        with pytest.raises(RunError, match=r"HTTP 404: Not Found; base_url must be the address.*ending in /v1"):
            send(server.url + "/models", questions(3))
        with pytest.raises(RunError, match="HTTP 404: Not Found; base_url must be"):
            send(server.url.replace("/v1", "/v2"), questions(3))


def test_a_web_page_says_what_the_address_must_be():
    def reply(body):
        raise Bad(200, b"<html>Welcome</html>", "text/html")

    with serving(reply) as server, pytest.raises(RunError, match=r"not a chat completion: <html>.*base_url must be"):
        send(server.url, questions(1))


def test_a_missing_model_is_said_as_the_server_says_it():
    def reply(body):
        raise Bad(404, b'{"error": {"message": "The model `m` does not exist"}}')

    with serving(reply) as server, pytest.raises(RunError, match="does not exist") as error:
        send(server.url.removesuffix("/v1"), questions(1))
    assert "base_url must be" not in str(error.value) and len(server.bodies) == 1


def test_azure_gets_the_key_in_its_own_header(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sesame-123")
    with serving(lambda body: "ok") as server:
        url = server.url.replace("/v1", "/openai/deployments/d?api-version=2024-10-21")
        send(url, questions(1), api_key_env="JUDGE_KEY")
    assert server.paths == ["/openai/deployments/d/chat/completions?api-version=2024-10-21"]
    assert server.headers[0]["api-key"] == "sesame-123" and "authorization" not in server.headers[0]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_question_and_no_key_follows_a_redirect_to_another_host(monkeypatch, status):
    monkeypatch.setenv("JUDGE_KEY", "sesame-123")
    with serving(lambda body: "ok") as other:

        def reply(body):
            raise Bad(status, b"", Location=other.url + "/chat/completions")

        with serving(reply) as server, pytest.raises(RunError, match=r"redirects to .*set base_url to it"):
            send(server.url, questions(1), api_key_env="JUDGE_KEY")
        assert len(server.bodies) == 1 and not other.bodies


def test_a_redirect_on_the_same_server_is_followed():
    def reply(body):
        if server.paths[-1] != "/v1/chat/completions/":
            raise Bad(307, b"", Location="/v1/chat/completions/")
        return "ok"

    with serving(reply) as server:
        assert send(server.url, questions(1)) == [Reply("ok")]


def test_an_error_sent_with_http_200_is_retried_and_reported():
    sent = []

    def reply(body):
        sent.append(question_of(body))
        if question_of(body) == "q1" or len(sent) == 1:
            raise Bad(200, b'{"error": {"code": 502, "message": "provider returned an error"}}')
        return "ok"

    with serving(reply) as server:
        first, second = send(server.url, questions(2), max_retries=2)
    assert first == Reply("ok")
    assert isinstance(second, Failure) and second.reason == "HTTP 200 with an error: provider returned an error"
    assert sent.count("q0") == 2 and sent.count("q1") == 3


def test_a_retry_after_as_a_date_is_obeyed():
    from email.utils import formatdate

    times = []

    def reply(body):
        times.append(time.time())
        if len(times) == 1:
            raise Bad(429, b"{}", Retry_After=formatdate(time.time() + 2, usegmt=True))
        return "ok"

    with serving(reply) as server:
        assert send(server.url, questions(1)) == [Reply("ok")]
    assert times[1] - times[0] > 0.9  # a date has whole seconds


def test_a_server_on_this_machine_needs_no_exception_from_the_proxy(monkeypatch):
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    with serving(lambda body: "ok") as server:
        assert send(server.url, questions(1)) == [Reply("ok")]


def test_other_servers_are_asked_through_the_proxy(monkeypatch):
    """The proxy is the test's server: it sees the whole address of the request."""
    with serving(lambda body: "ok") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        assert send("http://judge.invalid/v1", questions(1)) == [Reply("ok")]
    assert proxy.paths == ["http://judge.invalid/v1/chat/completions"]


def test_a_proxy_that_is_down_is_named(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(RunError, match=r"cannot be reached .* through the proxy in HTTP_PROXY; .*NO_PROXY"):
        send("http://judge.invalid/v1", questions(1), max_retries=0)


def test_a_slow_first_answer_does_not_hold_up_the_others_for_ever():
    held = threading.Event()

    def reply(body):
        if question_of(body) == "q0":
            held.wait(5)
        return "ok"

    with serving(reply) as server:
        first, *others = send(server.url, questions(5), timeout=0.3, max_retries=0)
        held.set()
    assert isinstance(first, Failure) and others == [Reply("ok")] * 4
