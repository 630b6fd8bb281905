"""A small checkpoint, and servers of it in this process: real sockets, the real engine thread."""

import contextlib
import json
import socket
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass

import pytest
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.limits import wait_for

from lightningrl.config.decoding import DirectDecoding
from lightningrl.inference.llm import LLM

NAME = "tiny"


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return save_byte_checkpoint(tmp_path_factory.mktemp("serving") / "model")


@pytest.fixture(scope="session")
def llm(model):
    return LLM(model)


@dataclass
class Served:
    url: str
    port: int

    def ask(self, path, body=None, **headers):
        """Status and JSON of one request."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers)) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def is_idle(self):
        """Whether nobody is served and every page is free."""
        stats = self.ask("/v1/stats")[1]
        return stats["jobs"] == stats["decoding_rows"] == 0 and stats["free_pages"] == stats["pages"]

    def connect(self, receive_bytes=None):
        raw = socket.socket()
        if receive_bytes:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        raw.connect(("127.0.0.1", self.port))
        return raw

    def post(self, raw, path, body):
        """Sends a request over a socket, and does not read."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost:{self.port}\r\nContent-Length: {len(data)}\r\n\r\n"
        raw.sendall(head.encode() + data)


@contextlib.contextmanager
def serving(llm, key=None, rows=8, memory_mb=None, decoding=(), hosts=(), **settings):
    """A server of a checkpoint while the context lasts; at its end all pages must be free."""
    from lightningrl.serving.guard import allowed_hosts
    from lightningrl.serving.start import Settings, make_server, prepare

    section = DirectDecoding(rows=rows, memory_mb=memory_mb, **dict(decoding))
    app = prepare(llm, section, Settings(NAME, **settings), allowed_hosts("127.0.0.1", hosts, key), key)
    server, listening = make_server(app, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    port = listening.getsockname()[1]
    served = Served(f"http://localhost:{port}", port)
    try:
        yield served
        if key is None:
            wait_for(served.is_idle, lambda: served.ask("/v1/stats"))
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="session")
def served(llm):
    with serving(llm) as server:
        yield server
