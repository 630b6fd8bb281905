"""The server's routes: OpenAI's chat and text completions, models, health, and the chat page.

Each choice of each request is a row of the one engine (`worker.py`). A client that leaves, or is too slow to read, or
whose time is over, gives its rows up, and their pages are free after the forward that runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from lightningrl.errors import DecodeError
from lightningrl.inference.llm import LLM
from lightningrl.serving.asked import Asked, AskedChat, AskedText, Plan, Planner, RefusedError, parse
from lightningrl.serving.choice import Choice, Delta, usage
from lightningrl.serving.guard import Guard
from lightningrl.serving.page import CONTENT_SECURITY_POLICY, render_page
from lightningrl.serving.worker import Job, Overloaded, Stopped, Worker


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client can ask of a server."""

    body_bytes: int = 1_000_000
    request_s: float = 600.0
    """For one request, from its body to the end of its answer."""
    body_s: float = 30.0
    """For its body to arrive."""
    write_s: float = 30.0
    """For a client to read what was sent, when the connection is full."""


class Service:
    """A checkpoint, its engine thread, and how requests become answers."""

    def __init__(self, llm: LLM, name: str, planner: Planner, worker: Worker, limits: Limits):
        self.llm, self.name, self.planner, self.worker, self.limits = llm, name, planner, worker, limits
        self.created = int(time.time())
        self._encoding = ThreadPoolExecutor(1, "lightningrl-encode")

    async def plan(self, request: Request, kind: type[Asked]) -> Plan:
        asked = parse(await self._body(request), kind)
        if asked.model != self.name:
            raise RefusedError(
                404, f"there is no model {asked.model!r:.200}; this server has {self.name!r}", code="model_not_found",
                param="model",
            )  # fmt: skip
        return await asyncio.get_running_loop().run_in_executor(self._encoding, self.planner.plan, asked)

    async def _body(self, request: Request) -> bytes:
        most, data = self.limits.body_bytes, bytearray()
        too_long = RefusedError(413, f"the body has more than {most} bytes")
        with contextlib.suppress(ValueError):
            if int(request.headers.get("content-length", 0)) > most:
                raise too_long
        try:
            async with asyncio.timeout(self.limits.body_s):
                async for part in request.stream():
                    data += part
                    if len(data) > most:
                        raise too_long
        except TimeoutError:
            raise RefusedError(408, f"the body did not arrive within {self.limits.body_s:g} s") from None
        return bytes(data)

    def begin(self, plan: Plan) -> list[Choice]:
        """Has the choices of a plan decoded. Raises RefusedError, status 429 or 503."""
        asked = plan.asked
        watched = bool(asked.stream or asked.stops)
        jobs = [Job(request, plan.policy, watched, asked.reveal) for request in plan.requests]
        try:
            self.worker.submit(jobs)
        except Overloaded:
            raise RefusedError(429, "the server is full; try again later", code="rate_limit_exceeded") from None
        except Stopped:
            raise RefusedError(503, "the server is shutting down") from None
        how = {"most_tokens": plan.most_tokens, "stops": asked.stops, "logprobs": plan.logprobs}
        return [Choice(self.llm, job, **how, reveal=asked.reveal) for job in jobs]

    async def deltas(self, choices: list[Choice]) -> AsyncGenerator[tuple[int, Delta], None]:
        """Yields what becomes known of any choice, until all have ended. Raises RefusedError, also when time is over;
        whoever called `begin` calls `end` in any case."""
        tasks: dict[asyncio.Task[None], int] = {}
        loop = asyncio.get_running_loop()
        end = loop.time() + self.limits.request_s
        try:
            tasks = {asyncio.create_task(choice.job.change()): index for index, choice in enumerate(choices)}
            while tasks:
                done, _ = await asyncio.wait(tasks, timeout=end - loop.time(), return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    raise RefusedError(504, f"not finished within {self.limits.request_s:g} s", code="timeout")
                for task in sorted(done, key=tasks.__getitem__):
                    index = tasks.pop(task)
                    choice = choices[index]
                    try:
                        delta = choice.read()
                    except DecodeError as error:
                        raise RefusedError(400, str(error)) from None
                    except Stopped:
                        raise RefusedError(503, "the server is shutting down") from None
                    except Exception:
                        raise RefusedError(500, "the engine failed; the server's log says why") from None
                    if choice.finish is None:
                        tasks[asyncio.create_task(choice.job.change())] = index
                    else:
                        self.worker.close([choice.job])
                    yield index, delta
        finally:
            for task in tasks:
                task.cancel()

    def end(self, choices: list[Choice]) -> None:
        """Nobody reads these choices any more: cancels those that have not ended."""
        self.worker.close([choice.job for choice in choices if choice.job in self.worker.jobs])


def make_app(service: Service, hosts: set[str], key: str | None) -> FastAPI:
    """Returns the ASGI application; its lifespan starts and ends the engine thread."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        await asyncio.to_thread(service.worker.stop)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(Guard, hosts=hosts, key=key)
    page = render_page(service.name, key is not None)

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> Response:
        return _refused(error)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        return _refused(RefusedError(error.status_code, str(error.detail)))

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)

    @app.get("/")
    async def chat_page() -> Response:
        return HTMLResponse(page, headers={"content-security-policy": CONTENT_SECURITY_POLICY, **PRIVATE})

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/v1/stats")
    async def stats() -> Response:
        decoder = service.worker.decoder
        return JSONResponse(
            {"jobs": len(service.worker.jobs), "decoding_rows": decoder.decoding_rows, "pages": decoder.pages,
             "free_pages": decoder.free_pages, "forwards": decoder.turns,
             "preemptions": decoder.preemptions}
        )  # fmt: skip

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [_model(service)]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        if name != service.name:
            raise RefusedError(404, f"this server has {service.name!r}", code="model_not_found", param="model")
        return JSONResponse(_model(service))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _answer(service, request, AskedChat)

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        return await _answer(service, request, AskedText)

    return app


PRIVATE = {"cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


def _refused(error: RefusedError) -> Response:
    headers = {"retry-after": "1"} if error.status in (429, 503) else {}
    return JSONResponse(error.body(), error.status, headers=headers)


def _model(service: Service) -> dict[str, Any]:
    return {"id": service.name, "object": "model", "created": service.created, "owned_by": "lightningrl"}


async def _answer(service: Service, request: Request, kind: type[Asked]) -> Response:
    plan = await service.plan(request, kind)
    form = Form(service.name, isinstance(plan.asked, AskedChat), plan.logprobs)
    choices = service.begin(plan)
    if plan.asked.stream:
        return EventStream(_events(service, plan, form, choices), service.limits.write_s, lambda: service.end(choices))
    whole = [Delta() for _ in choices]

    async def collect() -> None:
        async with contextlib.aclosing(service.deltas(choices)) as deltas:
            async for index, delta in deltas:
                whole[index].text += delta.text
                whole[index].tokens += delta.tokens

    try:
        if not await _while_connected(request.receive, collect()):
            return Response(status_code=499)  # nobody reads it
    finally:
        service.end(choices)
    body = form.head(chunk=False) | {"choices": [form.whole(i, d, choices[i].finish) for i, d in enumerate(whole)]}
    return JSONResponse(body | {"usage": usage(choices, plan.prompt_tokens)})


async def _events(service: Service, plan: Plan, form: Form, choices: list[Choice]) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events. An error after the first of them is an event too."""
    head, asked = form.head(chunk=True), plan.asked
    try:
        async with contextlib.aclosing(service.deltas(choices)) as deltas:
            if form.is_chat:
                for index in range(len(choices)):
                    yield _event(head | {"choices": [form.opening(index)]})
            async for index, delta in deltas:
                finish = choices[index].finish
                more = {"lightningrl": delta.cells} if delta.cells is not None else {}
                if delta.text or delta.tokens or finish or more:
                    yield _event(head | {"choices": [form.part(index, delta, finish)]} | more)
        if asked.stream_options is not None and asked.stream_options.include_usage:
            yield _event(head | {"choices": [], "usage": usage(choices, plan.prompt_tokens)})
        yield b"data: [DONE]\n\n"
    except RefusedError as error:
        yield _event(error.body())


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, allow_nan=False, separators=(",", ":")).encode() + b"\n\n"


class Form:
    """The API's objects, of chat or of text completions."""

    def __init__(self, model: str, is_chat: bool, logprobs: bool):
        self.model, self.is_chat, self.logprobs = model, is_chat, logprobs
        self.id, self.created = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}", int(time.time())
        self._offsets: dict[int, int] = {}

    def head(self, chunk: bool) -> dict[str, Any]:
        kind = f"chat.completion{'.chunk' if chunk else ''}" if self.is_chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def opening(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def part(self, index: int, delta: Delta, finish: str | None) -> dict[str, Any]:
        said = {"delta": {"content": delta.text} if delta.text else {}} if self.is_chat else {"text": delta.text}
        return {"index": index, **said, "logprobs": self._logprobs(index, delta), "finish_reason": finish}

    def whole(self, index: int, delta: Delta, finish: str | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": delta.text, "refusal": None}
        said = {"message": message} if self.is_chat else {"text": delta.text}
        return {"index": index, **said, "logprobs": self._logprobs(index, delta), "finish_reason": finish}

    def _logprobs(self, index: int, delta: Delta) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        if self.is_chat:
            return {
                "content": [
                    {"token": text, "logprob": logp, "bytes": list(text.encode()), "top_logprobs": []}
                    for _, text, logp in delta.tokens
                ],
                "refusal": None,
            }
        offsets = []
        for _, text, _ in delta.tokens:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(text)
        return {
            "tokens": [text for _, text, _ in delta.tokens], "token_logprobs": [logp for *_, logp in delta.tokens],
            "top_logprobs": None, "text_offset": offsets,
        }  # fmt: skip


async def _while_connected(receive: Any, work: Any) -> bool:
    """Runs `work` to its end, or until the client has left: then it is cancelled and the answer is False. Raises what
    it raises."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        working.result()
        return True
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events to a client that may leave, or stop reading for longer than `write_s`."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], write_s: float, at_end: Callable[[], None]):
        super().__init__(headers=PRIVATE | {"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._write_s, self._at_end = events, write_s, at_end

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def pump() -> None:
            async def write(message: dict[str, Any]) -> None:
                async with asyncio.timeout(self._write_s):
                    await send(message)

            await write({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with contextlib.aclosing(self._events) as events:
                async for event in events:
                    await write({"type": "http.response.body", "body": event, "more_body": True})
            await write({"type": "http.response.body", "body": b""})

        try:
            with contextlib.suppress(TimeoutError):
                await _while_connected(receive, pump())
        finally:
            self._at_end()
