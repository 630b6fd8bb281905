"""`lightningrl serve`: a checkpoint behind an OpenAI-compatible HTTP API, with a chat page."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any

import typer

from lightningrl.cli import options
from lightningrl.errors import ConfigError


@options.decoding_options()
def serve(
    model: options.Model,
    host: Annotated[str, typer.Option(help="Address to listen at. All but loopback need an API key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one and prints it.")] = 8000,
    name: Annotated[str | None, typer.Option(help="The model's name in the API; default: the folder's.")] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with the API key (mode 600); else LIGHTNINGRL_API_KEY.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="A further name by which clients reach the server; may be repeated.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=2, help="Most positions of a prompt with its response; default: up to 4096.")
    ] = None,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Responses that wait or are decoded at a time; more are answered with 429.")
    ] = 256,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one request, from its body to its end.")] = 600.0,
    max_body_kb: Annotated[int, typer.Option(min=1, help="Largest body of a request, in thousands of bytes.")] = 1000,
    **given: Any,
) -> None:
    """Serve a checkpoint over the OpenAI API.

    Chat and text completions, streamed block by block, at http://HOST:PORT/v1; a chat page that shows how an answer is
    revealed at http://HOST:PORT/. All clients share the engine's forwards. The options of decoding are what a request
    gets that does not say otherwise. Needs the extra `serve`; docs/serving.md describes the API and its limits.

    Example: lightningrl serve CHECKPOINT --port 8000
    """
    if not all(importlib.util.find_spec(package) for package in ("fastapi", "uvicorn")):
        raise ConfigError("`serve` needs FastAPI and uvicorn: pip install 'lightningrl[serve]'")
    from lightningrl.serving.guard import allowed_hosts, api_key

    key = api_key(api_key_file)
    hosts = allowed_hosts(host, allowed_host or (), key)
    from lightningrl.serving.start import Settings, prepare, run

    settings = Settings(
        name=name or model.resolve().name, context=context, most_jobs=max_requests, request_s=timeout,
        body_bytes=1000 * max_body_kb,
    )  # fmt: skip
    decoding = options.decoding_of(given)
    app = prepare(options.open_llm(model, decoding), decoding, settings, hosts, key)
    run(app, host, port, lambda address: typer.echo(f"{settings.name} at {address}/v1, chat at {address}/", err=True))
