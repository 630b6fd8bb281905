"""Who may ask a server: the key, the Host and the Origin of each request, before anything else looks at it.

A page of another site can make a browser send requests to a loopback address, by a name that it points there (DNS
rebinding) or across origins. So the Host must be a name of this server's, and an Origin that of this server's own page.
There are no CORS headers: no other page may read an answer.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightningrl.errors import ConfigError

KEY_VARIABLE = "LIGHTNINGRL_API_KEY"
SHORTEST_KEY = 16
LOOPBACK = ("localhost", "127.0.0.1", "::1")
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d*)?")
"""A name or an address, and perhaps a port."""
OPEN_PATHS = ("/", "/health")
"""Paths that need no key: a page without data, and whether the server runs."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that binds to this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def api_key(file: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Returns the key in a file, else that of the environment, else None. Raises ConfigError for one that is short, or
    a file that others can read."""
    if file is not None:
        if file.stat().st_mode & 0o077:
            raise ConfigError(f"{file}: other users can read the API key; run `chmod 600 {file}`")
        key, where = file.read_text(encoding="utf-8").strip(), str(file)
    else:
        key, where = environment.get(KEY_VARIABLE, "").strip(), KEY_VARIABLE
        if not key:
            return None
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{where}: an API key has at least {SHORTEST_KEY} printable ASCII characters and no blanks; make one with "
            "`openssl rand -hex 32`"
        )
    return key


def allowed_hosts(host: str, named: Iterable[str], key: str | None) -> set[str]:
    """Returns the names by which a server that binds to `host` may be asked. Raises ConfigError off loopback without a
    key, and for an address of every interface without names."""
    given = {name.lower().strip("[]") for name in named}
    if is_loopback(host):
        return {*LOOPBACK, host.lower(), *given}
    if key is None:
        raise ConfigError(
            f"--host {host}: other machines can reach this address, so an API key is required: set {KEY_VARIABLE}, or "
            "give --api-key-file (there is no option for the key itself: other users can read command lines)"
        )
    if host in ("0.0.0.0", "::"):
        if not given:
            raise ConfigError(
                f"--host {host} listens everywhere: name the host by which clients reach this server with "
                "--allowed-host, once for each name"
            )
        return {*LOOPBACK, *given}
    return {host.lower().strip("[]"), *given}


class Guard:
    """ASGI middleware. hosts: names (without ports) that a Host may have; key: None where none is needed."""

    def __init__(self, app: Any, hosts: Iterable[str], key: str | None):
        self.app, self.hosts, self.key = app, frozenset(hosts), key

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        refused = self._refusal(scope) if scope["type"] == "http" else None
        if refused is None:
            await self.app(scope, receive, send)
            return
        status, message = refused
        body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    def _refusal(self, scope: Any) -> tuple[int, str] | None:
        found: dict[bytes, list[str]] = {b"host": [], b"origin": [], b"authorization": []}
        for name, value in scope["headers"]:
            if name in found:
                found[name].append(value.decode("latin-1"))
        hosts, origins, keys = found.values()
        named = HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        if named is None or named[1].strip("[]") not in self.hosts:
            return 421, "the Host of this request is no name of this server; --allowed-host adds names"
        if origins and (len(origins) > 1 or urlsplit(origins[0]).netloc.lower() != hosts[0].lower()):
            return 403, "pages of other origins may not use this server"
        if self.key is None or scope["path"] in OPEN_PATHS:
            return None
        scheme, _, given = keys[0].partition(" ") if len(keys) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.key.encode()):
            return 401, "this server needs its API key: Authorization: Bearer KEY"
        return None
