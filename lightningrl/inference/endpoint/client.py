"""The HTTP client of an endpoint: one request, its limits, and when it is tried again.

A server is a stranger. Each attempt has one deadline over everything, from the name's lookup to the last byte, so that
no slow drip outlives it; bodies are read up to a bound and never decompressed; redirects are not followed, since they
would take the key and the prompts elsewhere; every request has a connection of its own, on which no other reply can
come. The API key is in one header, and is taken out of whatever the server sends back.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx2

from lightningrl.config.endpoint import Endpoint
from lightningrl.inference.endpoint.reply import Reply, RequestFailed, excerpt, read_reply
from lightningrl.inference.endpoint.request import EndpointRequest

MOST_BODY_BYTES = 16 * 2**20
"""The longest reply that is read; an answer of 8,192 tokens has some 40 kB."""
MOST_ERROR_BYTES = 64 * 2**10
FIRST_PAUSE_S, MOST_PAUSE_S = 1.0, 60.0
"""Pauses between attempts double from the first up to the most; each is shortened at random by up to a half."""
MOST_RETRY_AFTER_S = 900.0
"""A server that asks to wait for longer is waited for as long as this."""
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
"""Statuses of a server that is busy, or fails now and may not fail later."""
FATAL = {
    401: "the key is refused or missing: see `api_key_env`",
    403: "the key is refused or missing: see `api_key_env`",
    404: "there is no such model, or no such address: see `model` and `url`, which ends in /v1 as a rule",
    405: "this is not the address of an OpenAI API: see `url`, which ends in /v1 as a rule",
}
"""Statuses that every other request would get too -> what they mean."""
HIDDEN = "[the API key]"


class EndpointClient:
    """Asks one server. Used as an asynchronous context manager.

    closing: asked before each further attempt; when it is true there is none.
    """

    def __init__(self, endpoint: Endpoint, closing: Callable[[], bool] = lambda: False) -> None:
        """Raises ConfigError where the API key cannot be had."""
        self.endpoint, self.closing = endpoint, closing
        self._secret = endpoint.secret()
        self.url = f"{endpoint.url}/{'chat/completions' if endpoint.chat else 'completions'}"
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "Connection": "close"}
        headers |= {"Content-Type": "application/json", "User-Agent": "lightningrl"}
        if self._secret:
            headers["Authorization"] = f"Bearer {self._secret}"
        self._http = httpx2.AsyncClient(
            headers=headers, timeout=endpoint.timeout_s, follow_redirects=False,
            limits=httpx2.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=0),
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def ask(self, request: EndpointRequest) -> tuple[Reply, int]:
        """Returns the answer to a request, and how many attempts it took. Raises RequestFailed after the last one."""
        for attempt in range(1, self.endpoint.retries + 2):
            try:
                return await self._attempt(request), attempt
            except RequestFailed as error:
                failed = error
            if not failed.again or attempt > self.endpoint.retries or self.closing():
                break
            await self._pause(_pause_s(request, attempt) if failed.after_s is None else failed.after_s)
            if self.closing():
                break
        told = "" if attempt == 1 else f" ({attempt} attempts)"
        raise RequestFailed(f"{failed}{told}", again=failed.again, fatal=failed.fatal)

    async def _attempt(self, request: EndpointRequest) -> Reply:
        try:
            async with asyncio.timeout(self.endpoint.timeout_s):
                body = await self._post(request)
        except TimeoutError:
            raise RequestFailed(f"no answer within timeout_s ({self.endpoint.timeout_s:g} s)", again=True) from None
        except httpx2.TimeoutException:
            raise RequestFailed(f"no answer within timeout_s ({self.endpoint.timeout_s:g} s)", again=True) from None
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise RequestFailed(f"the server cannot be asked: {error}", fatal=True) from None
        except (httpx2.HTTPError, OSError) as error:
            told = self._clean(str(error)) or type(error).__name__
            raise RequestFailed(f"the connection to the server failed: {told}", again=True) from None
        found = read_reply(
            body, chat=self.endpoint.chat, model=self.endpoint.reply_model or self.endpoint.model,
            max_tokens=request.body["max_tokens"], forwards_at=self.endpoint.forwards_at,
        )  # fmt: skip
        # JSON may have written the key with escapes.
        return replace(found, text=self._clean(found.text), doubts=tuple(map(self._clean, found.doubts)))

    async def _post(self, request: EndpointRequest) -> bytes:
        """Returns the whole body of a good reply."""
        content = json.dumps(request.body, allow_nan=False).encode()
        async with self._http.stream("POST", self.url, content=content) as response:
            status, headers = response.status_code, response.headers
            if 300 <= status < 400:
                where = self._clean(headers.get("location", "nowhere"))
                raise RequestFailed(f"the server redirects to {excerpt(where)}, which is not followed", fatal=True)
            if status >= 400:
                told = excerpt(self._clean(_error_text(await _read(response, MOST_ERROR_BYTES, cut=True))))
                raise RequestFailed(
                    f"the server replied {status}{f' ({FATAL[status]})' if status in FATAL else ''}: {told}",
                    again=status in AGAIN, fatal=status in FATAL, after_s=_retry_after_s(headers.get("retry-after")),
                )  # fmt: skip
            kind = self._clean(headers.get("content-type", "")).partition(";")[0].strip().lower()
            if kind != "application/json" and not kind.endswith("+json"):
                raise RequestFailed(
                    f"the reply is {excerpt(kind or 'of no type')}, expected application/json: see `url`"
                )
            if headers.get("content-encoding", "identity").lower() != "identity":
                told = excerpt(self._clean(headers["content-encoding"]))
                raise RequestFailed(f"the reply is compressed by {told}, which was not asked for")
            return self._clean_bytes(await _read(response, MOST_BODY_BYTES))

    async def _pause(self, seconds: float) -> None:
        """Waits, but not on when the run closes."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.closing():
            await asyncio.sleep(min(left, 0.25))

    def _clean_bytes(self, body: bytes) -> bytes:
        return body.replace(self._secret.encode(), HIDDEN.encode()) if self._secret else body

    def _clean(self, text: str) -> str:
        return text.replace(self._secret, HIDDEN) if self._secret else text


async def _read(response: Any, most: int, cut: bool = False) -> bytes:
    """Returns a body of at most so many bytes. cut: whether a longer one is cut off there, and no failure."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > most:
            if cut:
                break
            raise RequestFailed(f"the reply has more than {most:,} bytes")
    return bytes(body[:most])


def _error_text(body: bytes) -> str:
    """Returns the message of an error of the OpenAI API, else the body itself."""
    text = body.decode(errors="replace")
    try:
        row = json.loads(body)
    except (ValueError, RecursionError):
        return text
    row = row.get("error", row) if isinstance(row, dict) else row
    message = row.get("message") or row.get("detail") if isinstance(row, dict) else row
    return message if isinstance(message, str) else text


def _retry_after_s(value: str | None) -> float | None:
    """Returns the seconds that a `Retry-After` asks for, at most `MOST_RETRY_AFTER_S`; None where it says nothing."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), MOST_RETRY_AFTER_S)


def _pause_s(request: EndpointRequest, attempt: int) -> float:
    """Returns the pause after an attempt; keyed by the request, so that not all come back at once."""
    digest = hashlib.sha256(f"{request.digest} {attempt}".encode()).digest()
    shortened = 1.0 - digest[0] / 512
    return shortened * min(FIRST_PAUSE_S * 2 ** (attempt - 1), MOST_PAUSE_S)
