"""The engine thread of a server: all requests of all clients share its forwards.

A `Job` is one response that somebody waits for. The thread never waits for a reader: a job holds only the newest view
of its response, and its reader takes that whenever it comes to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from dataclasses import dataclass, field

from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.errors import DecodeError
from lightningrl.serving.live import LiveDecoder, View
from lightningrl.types import Trajectory

LOG = logging.getLogger("lightningrl.serving")


class Overloaded(Exception):
    """As many responses as the server takes are waiting or being decoded already."""


class Stopped(Exception):
    """The server is shutting down."""


@dataclass(eq=False)
class Job:
    """One response. `request` and `policy` say what to decode; watched: whether views of it are wanted, one
    for each block that has been finished; every: one for each forward."""

    request: Request
    policy: DecodePolicy
    watched: bool = False
    every: bool = False
    view: View | None = None
    trajectory: Trajectory | None = None
    error: Exception | None = None
    number: int | None = None
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_over(self) -> bool:
        return self.trajectory is not None or self.error is not None

    async def change(self) -> None:
        """Waits until there is a newer view, or the end."""
        await self.news.wait()
        self.news.clear()

    def tell(self) -> None:
        """Wakes the reader; called by the engine thread. A loop that is closed has no reader."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.news.set)


class Worker:
    """Runs a decoder in a thread. most_jobs: how many responses may wait or be decoded at a time."""

    def __init__(self, decoder: LiveDecoder, most_jobs: int):
        self.decoder, self.most_jobs = decoder, most_jobs
        self.jobs: set[Job] = set()
        """Those that have been submitted and are not over or cancelled; only the event loop's thread changes it."""
        self._inbox: queue.SimpleQueue[tuple[str, Job | None]] = queue.SimpleQueue()
        self._running: dict[int, Job] = {}
        self._thread = threading.Thread(target=self._work, name="lightningrl-engine", daemon=True)
        self._is_stopped = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the forward that runs; what is not finished fails with `Stopped`."""
        self._is_stopped = True
        self._inbox.put(("stop", None))
        self._thread.join()

    def submit(self, jobs: list[Job]) -> None:
        """Has responses decoded: all of them, or none where they are too many. Raises Overloaded, or Stopped."""
        if self._is_stopped:
            raise Stopped
        if len(self.jobs) + len(jobs) > self.most_jobs:
            raise Overloaded
        for job in jobs:
            self.jobs.add(job)
            self._inbox.put(("submit", job))

    def close(self, jobs: list[Job]) -> None:
        """Nobody waits for these any more: those that are not over are cancelled, and their pages are free after the
        forward that runs."""
        for job in jobs:
            self.jobs.discard(job)
            if not job.is_over:
                self._inbox.put(("cancel", job))

    def _work(self) -> None:
        while True:
            if self._take() == "stop":
                break
            try:
                results = self.decoder.turn()
                for result in results:
                    job = self._running.pop(result.index)
                    job.trajectory, job.error = result.trajectory, result.error
                    job.tell()
                views = self.decoder.view([number for number, job in self._running.items() if job.watched])
                for number, view in views.items():
                    job = self._running[number]
                    if job.every or view.finished > (job.view.finished if job.view else 0):
                        job.view = view
                        job.tell()
            except Exception as error:
                LOG.exception("the engine failed; everything that was being decoded is given up")
                self._fail_all(error)
                self.decoder.reset()
        self._fail_all(Stopped())

    def _take(self) -> str:
        """Does what the inbox says; waits for it while there is nothing to decode."""
        while True:
            try:
                what, job = self._inbox.get(block=not self.decoder.is_busy)
            except queue.Empty:
                return "turn"
            if job is None:
                return "stop"
            if what == "cancel":
                if job.number is not None and self._running.pop(job.number, None) is not None:
                    self.decoder.cancel(job.number)
                continue
            try:
                job.number = self.decoder.submit(job.request, job.policy)
                self._running[job.number] = job
            except DecodeError as error:
                job.error = error
                job.tell()

    def _fail_all(self, error: Exception) -> None:
        waiting = list(self._running.values())
        self._running.clear()
        with contextlib.suppress(queue.Empty):
            while self._is_stopped:
                what, job = self._inbox.get_nowait()
                waiting += [job] if what == "submit" and job is not None else []
        for job in waiting:
            job.error = error
            job.tell()
