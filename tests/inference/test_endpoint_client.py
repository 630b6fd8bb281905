"""A server that is slow, busy, failing or lying: each is met by a real one, none is believed or waited for too long."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from email.utils import formatdate

import pytest
from fixtures.limits import HANG_S
from fixtures.openai_server import MODEL, reply, serve

from lightningrl.config.endpoint import Endpoint
from lightningrl.errors import ConfigError, Interrupted, StageError
from lightningrl.inference.endpoint import client as client_module
from lightningrl.inference.endpoint.asking import ask_all
from lightningrl.inference.endpoint.client import EndpointClient, _retry_after_s
from lightningrl.inference.endpoint.reply import RequestFailed
from lightningrl.inference.endpoint.request import Sampling, make_requests
from lightningrl.utils import journal

GREEDY = Sampling(64, 0.0, 0)
SECRET = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No proxy between, and no pauses of seconds."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(client_module, "FIRST_PAUSE_S", 0.001)


def requests_of(endpoint, count=1, samples=1, sampling=GREEDY, threshold=0.0):
    conversations = [(f"toy/test/{n:05}", [{"role": "user", "content": f"problem {n}"}]) for n in range(count)]
    return make_requests(endpoint, conversations, samples, sampling, threshold)


def endpoint_of(server, **keys):
    return Endpoint(**{"url": server.url, "model": MODEL, "timeout_s": HANG_S, "retries": 3} | keys)


def ask(server, **keys):
    """Returns the answer to one request and the attempts that it took."""
    endpoint = endpoint_of(server, **keys)

    async def run():
        async with EndpointClient(endpoint) as client:
            return await client.ask(requests_of(endpoint)[0])

    return asyncio.run(run())


def failure(server, **keys) -> RequestFailed:
    with pytest.raises(RequestFailed) as failed:
        ask(server, **keys)
    return failed.value


def test_what_is_asked_is_the_prompt_the_sampling_and_the_extra_body():
    with serve(lambda call: reply()) as server:
        endpoint = endpoint_of(
            server, extra_body={"return_meta_info": True}, stop=["\n\n"], parameter="confidence", api_key_env=""
        )
        first, second = requests_of(endpoint, samples=2, sampling=Sampling(64, 0.5, 7), threshold=0.75)
        assert first.body == {
            "model": MODEL, "messages": [{"role": "user", "content": "problem 0"}], "return_meta_info": True,
            "max_tokens": 64, "temperature": 0.5, "seed": first.body["seed"], "stream": False, "stop": ["\n\n"],
            "confidence": 0.75,
        }  # fmt: skip
        assert first.body["seed"] != second.body["seed"] and 0 <= first.body["seed"] < 2**31
        assert first.digest != second.digest and first.prompt_sha256 == second.prompt_sha256
        other = requests_of(endpoint, sampling=Sampling(64, 0.5, 8), threshold=0.75)[0]
        assert other.body["seed"] != first.body["seed"]  # the experiment's seed counts
        assert type(requests_of(endpoint, threshold=4.0)[0].body["confidence"]) is int  # steps, say
        ask(server)
        [call] = server.calls
        assert call.path == "/v1/chat/completions" and call.body["messages"][0]["content"] == "problem 0"
        assert "authorization" not in call.headers and call.headers["connection"] == "close"


def test_a_prompt_that_begins_the_answer_needs_a_server_that_goes_on_from_it():
    begun = [("toy/test/00000", [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>"}])]
    endpoint = Endpoint(url="http://127.0.0.1:1/v1", model=MODEL)
    with pytest.raises(ConfigError, match="continue_final_message"):
        make_requests(endpoint, begun, 1, Sampling(8, 0.0, 0), 0.0)
    goes_on = endpoint.model_copy(update={"extra_body": {"continue_final_message": True}})
    assert make_requests(goes_on, begun, 1, Sampling(8, 0.0, 0), 0.0)[0].body["messages"][-1]["content"] == "<think>"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_or_failing_server_is_asked_again(status):
    page = "<html><h1>Bad Gateway</h1></html>"
    with serve(lambda call: call.send(status, page, "text/html") if call.number < 3 else reply()) as server:
        assert ask(server)[1] == 3
    with serve(lambda call: call.send(status, page, "text/html")) as server:
        assert f"replied {status}: '<html>" in str(failure(server)) and len(server.calls) == 4  # 3 retries
        assert "(4 attempts)" in str(failure(server))


def test_retry_after_is_obeyed_and_bounded():
    with serve(lambda call: call.send(429, "{}", retry_after="0.4") if call.number == 1 else reply()) as server:
        began = time.monotonic()
        assert ask(server)[1] == 2 and time.monotonic() - began >= 0.4
    assert _retry_after_s("7") == 7.0 and _retry_after_s("-3") == 0.0 and _retry_after_s("1e9") == 900.0
    assert 0 < (_retry_after_s(formatdate(time.time() + 800, usegmt=True)) or 0) <= 800
    assert _retry_after_s(None) is _retry_after_s("soon") is _retry_after_s("nan") is None


@pytest.mark.parametrize(
    ("status", "message", "fatal"),
    [(400, "too long", False), (413, "too long", False), (422, "too long", False), (401, "key is refused", True),
     (403, "key is refused", True), (404, "no such model", True), (405, "ends in /v1", True)],
)  # fmt: skip
def test_what_the_server_refuses_is_not_asked_again(status, message, fatal):
    body = json.dumps({"error": {"message": "the prompt is too long"}})
    with serve(lambda call: call.send(status, body)) as server:
        failed = failure(server)
        assert message in str(failed) and failed.fatal == fatal and len(server.calls) == 1


def test_an_error_of_a_kind_nobody_knows_is_a_failure():
    with serve(lambda call: call.send(418, b"\xff" * 200_000, "image/png")) as server:
        assert "replied 418" in str(failure(server)) and len(str(failure(server))) < 400


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed_with_key_and_prompt(status, monkeypatch):
    monkeypatch.setenv("TOY_KEY", SECRET)
    with serve(lambda call: reply()) as other:
        with serve(lambda call: call.send(status, "", location=f"{other.url}/chat/completions")) as server:
            failed = failure(server, api_key_env="TOY_KEY")
            assert "redirects to" in str(failed) and failed.fatal and len(server.calls) == 1
        assert other.calls == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [("text/html", "<html>please log in</html>"), ("text/event-stream", "data: {}\n\n"), ("", "{}"),
     ("application/octet-stream", json.dumps(reply()))],
)  # fmt: skip
def test_a_reply_of_another_type_is_no_answer(kind, text):
    with serve(lambda call: call.send(200, text, kind)) as server:
        assert "expected application/json" in str(failure(server)) and len(server.calls) == 1


def test_a_reply_that_is_compressed_unasked_is_not_unpacked():
    with serve(lambda call: call.send(200, b"\x1f\x8b", content_encoding="gzip")) as server:
        assert "compressed by 'gzip'" in str(failure(server))


def drip(call, what=b" ", pause=0.02):
    """Sends a reply's head, then bytes without end."""
    call.send(200, b"", content_length="1000000000")
    while True:
        call.handler.wfile.write(what)
        call.handler.wfile.flush()
        time.sleep(pause)


def silence(call):
    time.sleep(HANG_S)


def slow_head(call):
    """Sends the status, then a header letter by letter."""
    call.handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        call.handler.wfile.write(b"x")
        call.handler.wfile.flush()
        time.sleep(0.02)


@pytest.mark.parametrize("answer", [drip, silence, slow_head])
def test_one_deadline_ends_an_attempt_however_slowly_bytes_come(answer):
    with serve(answer) as server:
        failed = failure(server, timeout_s=0.3, retries=1)
        assert failed.again and "no answer within timeout_s (0.3 s) (2 attempts)" in str(failed)
        assert len(server.calls) == 2


def test_a_huge_body_is_read_up_to_a_bound():
    with serve(lambda call: drip(call, b"x" * 2**20, 0.0)) as server:
        assert "more than 16,777,216 bytes" in str(failure(server))


def test_a_connection_that_breaks_is_made_again():
    def cut(call):
        if call.number > 2:
            return reply()
        if call.number == 1:
            return call.send(200, '{"choices": [', content_length="500")  # and no more
        call.handler.connection.close()
        return None

    with serve(cut) as server:
        assert ask(server)[1] == 3
    gone = server  # nobody listens there any more
    assert "connection to the server failed" in str(failure(gone)) and failure(gone).again


def test_a_second_reply_on_a_connection_is_nobodys_answer():
    """A server that sends more than it was asked: what follows is not taken for the next request's answer."""

    def twice(call):
        if call.number == 1:
            call.send(200, json.dumps(reply("first")))
        call.send(200, json.dumps(reply("second")))

    with serve(twice) as server:
        endpoint = endpoint_of(server, concurrency=1)

        async def run():
            async with EndpointClient(endpoint) as client:
                return [(await client.ask(request))[0].text for request in requests_of(endpoint, 2)]

        assert asyncio.run(run()) == ["first", "second"] and len(server.calls) == 2


def test_the_key_is_sent_and_never_told(monkeypatch, tmp_path):
    monkeypatch.setenv("TOY_KEY", f" {SECRET}\n")
    (tmp_path / "key").write_text(SECRET)

    def echo(call):
        assert call.headers["authorization"] == f"Bearer {SECRET}"
        if call.number == 1:
            call.send(400, f"bad key {call.headers['authorization']}", "text/plain")
            return None
        return reply(f"your key is {SECRET}", tokens=9)

    with serve(echo) as server:
        told = str(failure(server, api_key_env="TOY_KEY"))
        assert SECRET not in told and "[the API key]" in told
        assert ask(server, api_key_file=str(tmp_path / "key"))[0].text == "your key is [the API key]"
        for keys in ({"api_key_env": "NO_SUCH_KEY"}, {"api_key_file": str(tmp_path / "none")}):
            with pytest.raises(ConfigError, match="cannot be read"):
                ask(server, **keys)
    odd = "sk/abc+very-secret-012"
    monkeypatch.setenv("TOY_KEY", odd)
    for way in (lambda call: call.send(200, json.dumps(reply(f"key {odd}")).replace("/", "\\/")),
                lambda call: call.send(400, json.dumps({"error": {"message": odd}}).replace("/", "\\/")),
                lambda call: call.send(200, "{}", f"text/{odd}"),
                lambda call: call.send(200, "{}", content_encoding=odd)):  # fmt: skip
        with serve(way) as server:
            try:
                told = ask(server, api_key_env="TOY_KEY")[0].text
            except RequestFailed as error:
                told = str(error)
            assert odd not in told and "[the API key]" in told.replace("[the api key]", "[the API key]"), told
    monkeypatch.setenv("TOY_KEY", "two words, and too odd\nfor a header")
    with pytest.raises(ConfigError, match="holds no API key") as refused:
        ask(server, api_key_env="TOY_KEY")
    assert "odd" not in str(refused.value)


def test_many_are_asked_together_and_no_more_than_that(tmp_path):
    lock, now, most = threading.Lock(), [0], [0]

    def answer(call):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        deadline = time.monotonic() + HANG_S
        while call.number <= 4 and most[0] < 4 and time.monotonic() < deadline:  # the first four wait for each other
            time.sleep(0.005)
        with lock:
            now[0] -= 1
        return reply(call.prompt)

    with serve(answer) as server:
        endpoint = endpoint_of(server, concurrency=4)
        found = ask_all(endpoint, requests_of(endpoint, 12), tmp_path / "j.jsonl")
    assert most[0] == 4 and len(server.calls) == 12
    assert {key: each.text for key, each in found.replies.items()} == {
        (f"toy/test/{n:05}", 0): f"problem {n}" for n in range(12)
    }


def test_answers_are_kept_and_only_what_is_missing_is_asked_again(tmp_path):
    path, bad = tmp_path / "j.jsonl", [True]

    def answer(call):
        return call.send(400, "no") if bad[0] and call.prompt == "problem 3" else reply(call.prompt)

    with serve(answer) as server:
        endpoint = endpoint_of(server, concurrency=1)
        with pytest.raises(StageError, match=r"1 of 6 requests failed.*toy/test/00003.*3 of 6 answers are kept"):
            ask_all(endpoint, requests_of(endpoint, 6), path)
        assert len(server.calls) == 4  # with none allowed, the first failure is the last request
        with path.open("ab") as file:
            file.write(b"torn by a ki")
        told = []
        bad[0] = False
        found = ask_all(endpoint, requests_of(endpoint, 6), path, report=told.append)
        assert (found.kept, found.damaged, len(found.replies), len(server.calls)) == (3, 1, 6, 7)
        assert "3 of 6 answers are there already" in told
        assert ask_all(endpoint, requests_of(endpoint, 6), path).kept == 6 and len(server.calls) == 7
        hotter = requests_of(endpoint, 1, sampling=Sampling(64, 1.0, 0))
        assert ask_all(endpoint, hotter, path).kept == 0  # another question


def test_some_may_fail_where_that_is_allowed(tmp_path):
    with serve(lambda call: call.send(400, "no") if call.prompt == "problem 3" else reply()) as server:
        endpoint = endpoint_of(server, max_failed_pct=20.0)
        found = ask_all(endpoint, requests_of(endpoint, 6), tmp_path / "j.jsonl", most_failed=1)
    assert len(found.replies) == 5 and list(found.failed) == [("toy/test/00003", 0)]
    assert found.failed["toy/test/00003", 0] == "the server replied 400: 'no'"


def test_what_every_request_would_hear_stops_the_run_at_once(tmp_path):
    with serve(lambda call: reply(model="another") if call.number == 3 else reply()) as server:
        endpoint = endpoint_of(server, concurrency=1, max_failed_pct=50.0)
        with pytest.raises(StageError, match="reply is of the model 'another'"):
            ask_all(endpoint, requests_of(endpoint, 50), tmp_path / "j.jsonl", most_failed=25)
        assert len(server.calls) <= 4


def test_a_stop_is_heard_while_the_server_thinks(tmp_path):
    with serve(lambda call: reply() if call.number < 3 else silence(call)) as server:
        endpoint = endpoint_of(server, concurrency=2)
        stop = lambda: len(server.calls) >= 4  # noqa: E731
        with pytest.raises(Interrupted, match="2 of 6 answers"):
            ask_all(endpoint, requests_of(endpoint, 6), tmp_path / "j.jsonl", should_stop=stop)
        with journal.open_locked(tmp_path / "j.jsonl"), pytest.raises(StageError, match="written by another process"):
            ask_all(endpoint, requests_of(endpoint, 6), tmp_path / "j.jsonl")
