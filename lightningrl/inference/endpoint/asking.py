"""Asking a server everything: so many requests at a time, each answer kept as it comes, and none asked for twice.

Answers gather in a journal, a line each with a hash of its own, found again by what was asked. After any kind of end,
kill -9 too, the same run asks for what is missing alone; a request that failed is asked again by the next run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from lightningrl.config.endpoint import Endpoint
from lightningrl.errors import Interrupted, StageError
from lightningrl.inference.endpoint.client import EndpointClient
from lightningrl.inference.endpoint.reply import Reply, RequestFailed
from lightningrl.inference.endpoint.request import EndpointRequest, Key
from lightningrl.utils import files, journal

POLL_S = 0.2
TOLD = 10
"""How often a run says how far it is."""


@dataclass(slots=True)
class Asked:
    """What a run has."""

    replies: dict[Key, Reply] = field(default_factory=dict)
    failed: dict[Key, str] = field(default_factory=dict)
    """Requests without an answer -> why."""
    kept: int = 0
    """Answers that were there before."""
    damaged: int = 0
    """Lines of the journal that cannot be used."""


def ask_all(
    endpoint: Endpoint,
    requests: Sequence[EndpointRequest],
    path: Path,
    *,
    most_failed: int = 0,
    report: Callable[[str], None] = lambda _: None,
    timing: Callable[..., None] = lambda **_: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Asked:
    """Returns the answers to all requests, those of the journal at `path` and those that it asks for now.

    most_failed: how many may be without an answer in the end. Raises StageError when more are, when the server says
    what every other request would hear too, and when another process asks with the same journal; Interrupted when
    `should_stop` says so; ConfigError where the API key cannot be had. Every answer stays in the journal.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with journal.open_locked(path) as file:
        run = _Run(endpoint, file, path, most_failed, report, timing, should_stop)
        run.read(requests)
        missing = [request for request in requests if request.key not in run.asked.replies]
        if missing:
            asyncio.run(run.ask(missing, len(requests)))
        run.check(len(requests))
        return run.asked


@dataclass(slots=True)
class _Run:
    endpoint: Endpoint
    file: FileIO
    path: Path
    most_failed: int
    report: Callable[[str], None]
    timing: Callable[..., None]
    should_stop: Callable[[], bool]
    asked: Asked = field(default_factory=Asked)
    fatal: str = ""
    """What every other request would hear too."""

    @property
    def closing(self) -> bool:
        """Whether no further request, and no further attempt, is made."""
        return bool(self.fatal) or len(self.asked.failed) > self.most_failed

    def read(self, requests: Sequence[EndpointRequest]) -> None:
        """Takes the answers to these requests that the journal holds."""
        self.file.seek(0)
        gathered = self.file.readall()
        if gathered and not gathered.endswith(b"\n"):  # a torn line stays behind as a damaged one of its own
            journal.append(self.file, b"\n", self.path)
        rows = [journal.hashed_row(line) for line in gathered.splitlines() if line.strip()]
        self.asked.damaged = rows.count(None)
        known = {row["of"]: row["reply"] for row in rows if row is not None and "reply" in row}
        for request in requests:
            if request.digest in known:
                self.asked.replies[request.key] = Reply.from_json(known[request.digest])
        self.asked.kept = len(self.asked.replies)
        if self.asked.damaged:
            self.report(f"{self.path}: {self.asked.damaged} damaged lines; what they held is asked again")
        if self.asked.kept:
            self.report(f"{self.asked.kept} of {len(requests)} answers are there already")

    async def ask(self, missing: Sequence[EndpointRequest], total: int) -> None:
        """Asks for these, `concurrency` at a time, and appends each answer to the journal as it comes."""
        rest, steps = iter(missing), max(1, total // TOLD)
        async with EndpointClient(self.endpoint, lambda: self.closing) as client:
            count = min(self.endpoint.concurrency, len(missing))
            workers = {asyncio.create_task(self._work(client, rest, steps, total)) for _ in range(count)}
            try:
                while workers:
                    done, workers = await asyncio.wait(workers, timeout=POLL_S)
                    for task in done:
                        task.result()
                    if self.should_stop():
                        raise Interrupted(
                            f"stopped with {len(self.asked.replies)} of {total} answers; run the same command again to "
                            "ask for the others"
                        )
                    if self.fatal:
                        break
            finally:
                for task in workers:
                    task.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, client: EndpointClient, rest: Iterator[EndpointRequest], steps: int, total: int) -> None:
        for request in rest:
            if self.closing:
                return
            began = time.monotonic()
            row: dict[str, Any] = {"of": request.digest, "uid": request.uid, "sample": request.sample}
            try:
                reply, attempts = await client.ask(request)
            except RequestFailed as error:
                if error.fatal and not self.fatal:
                    self.fatal = f"{request.uid}: {error}"
                self.asked.failed[request.key] = str(error)
                self._append(row | {"failed": str(error)})
                continue
            self._append(row | {"reply": reply.to_json()})
            self.asked.replies[request.key] = reply
            self.timing(
                event="reply", uid=request.uid, sample=request.sample, seconds=time.monotonic() - began,
                attempts=attempts,
            )  # fmt: skip
            if len(self.asked.replies) % steps == 0:
                failed = f", {len(self.asked.failed)} failed" if self.asked.failed else ""
                self.report(f"{len(self.asked.replies)} of {total} answers{failed}")

    def _append(self, row: dict[str, Any]) -> None:
        safe = {name: files.escape_surrogates(x) if isinstance(x, str) else x for name, x in row.items()}
        journal.append(self.file, journal.hashed_line(safe).encode(), self.path)

    def check(self, total: int) -> None:
        """Raises StageError where too many requests have no answer."""
        failed, kept = self.asked.failed, len(self.asked.replies)
        again = (
            f"{kept} of {total} answers are kept; fix this, then run the same command again, which asks for the others"
        )
        if self.fatal:
            raise StageError(f"the endpoint {self.endpoint.model}: {self.fatal}. {again}")
        if len(failed) > self.most_failed:
            (uid, _), why = next(iter(failed.items()))
            allowed = f"at most {self.most_failed} may (max_failed_pct is {self.endpoint.max_failed_pct:g})"
            raise StageError(
                f"the endpoint {self.endpoint.model} at {self.endpoint.url}: {len(failed)} of {total} requests failed, "
                f"and {allowed}; the "
                f"first, {uid}: {why}. {again}"
            )
