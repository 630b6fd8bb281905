"""From a checkpoint to a server that runs: the engine, its routes, and uvicorn with its limits."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from lightningrl.config.decoding import DirectDecoding
from lightningrl.errors import ConfigError
from lightningrl.inference.llm import LLM
from lightningrl.inference.policy import direct_policy
from lightningrl.serving.app import Limits, Service, make_app
from lightningrl.serving.asked import Planner
from lightningrl.serving.live import LiveDecoder
from lightningrl.serving.worker import Worker

DEFAULT_CONTEXT = 4096
MOST_CONNECTIONS = 1024
"""More are answered with 503 by uvicorn; each of them costs a file descriptor."""
HEADER_BYTES = 64 * 1024
GOODBYE_S = 10
"""How long running requests have when the server is asked to stop."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The limits of one server."""

    name: str
    context: int | None = None
    """None: the model's, but at most `DEFAULT_CONTEXT`."""
    most_jobs: int = 256
    request_s: float = 600.0
    body_s: float = 30.0
    write_s: float = 30.0
    body_bytes: int = 1_000_000


def prepare(llm: LLM, decoding: DirectDecoding, settings: Settings, hosts: set[str], key: str | None) -> FastAPI:
    """Returns the application of a checkpoint. Raises ConfigError for a context that the model has not."""
    most = llm.model.config.max_position_embeddings
    if settings.context is not None and settings.context > most:
        raise ConfigError(f"--context is {settings.context}, the model has {most} positions")
    decoder = LiveDecoder(
        llm, direct_policy(decoding), rows=decoding.rows, context=settings.context or min(most, DEFAULT_CONTEXT),
        memory_bytes=decoding.memory_bytes, forwards=decoding.forwards,
    )  # fmt: skip
    limits = Limits(settings.body_bytes, settings.request_s, settings.body_s, settings.write_s)
    worker = Worker(decoder, settings.most_jobs)
    service = Service(llm, settings.name, Planner(llm, decoding, decoder.context), worker, limits)
    return make_app(service, hosts, key)


def make_server(app: FastAPI, host: str, port: int) -> tuple[uvicorn.Server, socket.socket]:
    """Returns the server and the socket at which it listens already. Raises ConfigError where the address cannot be
    had."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(MOST_CONNECTIONS)
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen at {host}, port {port}: {error.strerror}; take another --port") from None
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, proxy_headers=False, http="h11", ws="none",
        limit_concurrency=MOST_CONNECTIONS, h11_max_incomplete_event_size=HEADER_BYTES, timeout_keep_alive=30,
        timeout_graceful_shutdown=GOODBYE_S,
    )  # fmt: skip
    return uvicorn.Server(config), listening


def run(app: FastAPI, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM. ready: called with the address once connections are taken."""
    server, listening = make_server(app, host, port)
    with listening:
        ready(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}")
        server.run(sockets=[listening])
