"""Many clients, among them bad ones: no answer is lost, none has a row of another client's, and no page is kept."""

import http.client
import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fixtures.limits import wait_for
from fixtures.serving import NAME, serving

from lightningrl.inference.policy import policy_of


def body(text, most=24, **more):
    return {"model": NAME, "messages": [{"role": "user", "content": text}], "max_tokens": most} | more


def expected_texts(llm, texts, most):
    """What `generate` gives for each text, cut as the API cuts it."""
    found = llm.generate(texts, policy_of(), max_new_tokens=most)
    return [llm.tokenizer.decode(c.trajectory.response_ids[:most], skip_special_tokens=True) for c in found]


def read_all(raw, pause_s=0.0, size=65536):
    """What a chunked answer over a socket has, read in pieces with pauses between them, to its end or the socket's."""
    data = b""
    while (piece := raw.recv(size)) and b"\r\n0\r\n\r\n" not in (data := data + piece)[-7:]:
        time.sleep(pause_s)
    return data


def read_stream(raw, pause_s=0.0, size=65536):
    """The text of a stream over a socket, and whether it came to its end."""
    data = read_all(raw, pause_s, size)
    events = [line[6:] for line in data.replace(b"\r\n", b"\n").split(b"\n") if line.startswith(b"data: ")]
    parts = [json.loads(event) for event in events if event != b"[DONE]"]
    return "".join(part["choices"][0]["delta"].get("content") or "" for part in parts), events[-1:] == [b"[DONE]"]


def ask_whole(server, text, most):
    connection = http.client.HTTPConnection("localhost", server.port)
    connection.request("POST", "/v1/chat/completions", json.dumps(body(text, most)))
    reply = connection.getresponse()
    found = json.load(reply)
    connection.close()
    return found["choices"][0]["message"]["content"] if reply.status == 200 else found


def ask_stream(server, text, most, pause_s=0.0, size=65536):
    with server.connect(4096 if pause_s else None) as raw:
        server.post(raw, "/v1/chat/completions", body(text, most, stream=True))
        found, is_whole = read_stream(raw, pause_s, size)
    return found if is_whole else (found, "broke off")


def leave(server, text, most, half):
    """A client that leaves in the midst of its answer: it closes its connection, or only its own half of it."""
    with server.connect() as raw:
        server.post(raw, "/v1/chat/completions", body(text, most, stream=True))
        raw.recv(64)
        if half:
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65536):
                pass
    return


BAD = {
    b"{": 400, b"[1]": 400, b'{"model": NaN}': 400, b'{"model": "\\ud800"}': 400, b"\xff": 400, b"": 400,
    b"[" * 20_000: 400, b"x" * 60_000: 413, json.dumps(body("x" * 9000)).encode(): 400,
}  # fmt: skip


def ask_badly(server, data):
    status, found = server.ask("/v1/chat/completions", data)
    assert status == BAD[data] and found["error"]["message"], (data[:40], status, found)


def crowd(server, llm, clients, most, seed):
    """All kinds of clients at once; returns how many had which kind of answer, and which were wrong."""
    texts = [f"question {i}: " + "word " * (i % 9) for i in range(clients)]
    expected = expected_texts(llm, texts, most)
    kinds = [ask_whole, ask_stream, lambda *a: ask_stream(*a, pause_s=0.02, size=512)]
    rng, bad, done, wrong = random.Random(seed), list(BAD), 0, []
    gate = threading.Barrier(min(clients, 200))

    def client(i):
        gate.wait()
        kind = i % 5
        if kind == 3:
            return leave(server, texts[i], most, half=rng.random() < 0.5)
        if kind == 4:
            ask_badly(server, bad[i // 5 % len(bad)])
        return kinds[kind % 3](server, texts[i], most)

    with ThreadPoolExecutor(clients) as pool:
        for i, found in enumerate(pool.map(client, range(clients))):
            if i % 5 != 3:
                done += 1
                wrong += [(i, found, expected[i])] * (found != expected[i])
    wait_for(server.is_idle, lambda: server.ask("/v1/stats"))
    return done, wrong


def test_a_small_crowd_gets_what_generate_gives_and_leaves_nothing_behind(llm):
    with serving(llm, body_bytes=50_000) as server:
        done, wrong = crowd(server, llm, clients=20, most=24, seed=1)
    assert done == 16 and wrong == []


@pytest.mark.slow
def test_two_hundred_clients_on_few_pages_get_what_generate_gives(llm):
    with serving(llm, rows=16, memory_mb=1, body_bytes=50_000, most_jobs=256) as server:
        began = time.monotonic()
        done, wrong = crowd(server, llm, clients=200, most=64, seed=2)
        stats = server.ask("/v1/stats")[1]
    print(f"{done} answers of 200 clients in {time.monotonic() - began:.1f} s, {stats['forwards']} forwards")
    assert done == 160 and wrong == []


def test_more_than_the_server_takes_is_refused_at_once_and_the_rest_is_answered(llm):
    with serving(llm, rows=1, most_jobs=2) as server, ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(server.ask, "/v1/chat/completions", body("Hi", 150)) for _ in range(12)]
        status = [each.result()[0] for each in asked]
    assert set(status) == {200, 429} and status.count(200) >= 2


def test_a_request_whose_time_is_over_ends_and_gives_its_pages_back(llm):
    with serving(llm, request_s=0.05) as server:
        status, found = server.ask("/v1/chat/completions", body("Hi", 200, n=4))
        assert (status, found["error"]["code"]) == (504, "timeout")
        with server.connect() as raw:
            server.post(raw, "/v1/chat/completions", body("Hi", 200, stream=True))
            assert b'"code":"timeout"' in read_all(raw)


def test_a_reader_that_stops_reading_is_let_go_and_its_rows_are_free(llm):
    """The buffers between are small, and what it is sent is more than they hold; all other clients go on."""
    with serving(llm, write_s=0.3, send_bytes=4096) as server, server.connect(1024) as raw:
        server.post(raw, "/v1/chat/completions", body("Hi", 200, stream=True, reveal=True, n=16))
        wait_for(lambda: server.ask("/v1/stats")[1]["jobs"] > 0, "the request was not begun")
        assert ask_whole(server, "Hi", 8) == expected_texts(llm, ["Hi"], 8)[0]
        wait_for(server.is_idle, "its rows are kept")
        assert b"[DONE]" not in read_all(raw), "it read everything: its buffers held it all"


def test_a_body_that_does_not_arrive_is_not_waited_for(llm):
    with serving(llm, body_s=0.2) as server, server.connect() as raw:
        raw.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: localhost:{server.port}\r\n".encode())
        raw.sendall(b"Content-Length: 1000\r\n\r\n{")
        assert b" 408 " in raw.recv(4096)


def test_an_error_of_the_engine_fails_what_it_decodes_and_the_next_request_is_answered(llm):
    with serving(llm, decoding={"selector": "fixtures.serving:Breaks"}) as server, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(server.ask, "/v1/chat/completions", body("Hi", 60)) for _ in range(3)]
        failed = [found for status, found in (each.result() for each in asked) if status == 500]
        assert failed and all("the server's log says why" in found["error"]["message"] for found in failed)
        assert ask_whole(server, "Hi", 8) == expected_texts(llm, ["Hi"], 8)[0]
