"""A worker process that answers lines with lines: it is killed when it is late and restarted when it is dead.

Judging may hang, run out of memory or crash the interpreter (a power tower, a recursive parse), so it runs in processes
that may be lost. Messages are JSON objects, one per line. The process first takes its channels with `channels()`, so
that nothing a library prints can be mistaken for an answer. A worker is not thread-safe.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

MAX_LINE_BYTES = 16 * 2**20
_POLL_S = 0.1


class WorkerLost(Exception):
    """The process died or sent an invalid message. It has ended; the next `send` starts another."""


class WorkerLate(Exception):
    """No answer arrived by the deadline. The process was killed; the next `send` starts another."""


class Worker:
    """One worker process, which the first `send` starts.

    >>> worker = Worker(("cat",))
    >>> worker.send({"x": 1}, time.monotonic() + 60)
    >>> worker.receive(time.monotonic() + 60)
    {'x': 1}
    >>> worker.close()
    -9
    """

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Takes the command and its whole environment (default: PATH only)."""
        self._argv = list(argv)
        self._environment = {"PATH": os.defpath} if environment is None else dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._read = bytearray()

    @property
    def pid(self) -> int | None:
        """The id of the running process; None before the first message and after a loss."""
        return None if self._process is None else self._process.pid

    def send(self, message: Mapping[str, Any], deadline: float) -> None:
        """Sends one message by a deadline in `time.monotonic()` seconds; raises WorkerLost or WorkerLate."""
        line = memoryview(json.dumps(message).encode() + b"\n")
        if self._process is None:
            self.start()
        assert self._process is not None and self._process.stdin is not None
        handle = self._process.stdin.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_WRITE)
            while line:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.close()
                    raise WorkerLate
                try:
                    line = line[os.write(handle, line) :]
                except OSError as error:
                    raise self._lost() from error

    def cpu_seconds(self) -> float:
        """Returns the processor time of the process so far; 0 if there is none."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def receive(self, deadline: float, is_over: Callable[[], bool] = lambda: True) -> dict[str, Any]:
        """Returns the next message, or raises WorkerLate or WorkerLost.

        From the deadline on, `is_over` decides ten times per second whether to give up.
        """
        if self._process is None:
            raise WorkerLost("no message was sent")
        stream = self._process.stdout
        assert stream is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while b"\n" not in self._read:
                rest = deadline - time.monotonic()
                if not selector.select(rest if rest > 0 else _POLL_S):
                    if time.monotonic() < deadline or not is_over():
                        continue
                    self.close()
                    raise WorkerLate
                data = os.read(stream.fileno(), 1 << 16)
                self._read += data
                if not data or len(self._read) > MAX_LINE_BYTES:
                    raise self._lost()
        line, _, rest = self._read.partition(b"\n")
        self._read = bytearray(rest)
        try:
            return json.loads(line)
        except ValueError as error:
            self.close()
            raise WorkerLost(f"the judge's worker process sent an invalid message: {error}") from error

    def _lost(self) -> WorkerLost:
        return WorkerLost(f"the judge's worker process ended (exit code {self.close()})")

    def close(self) -> int | None:
        """Kills the process and returns its exit code. The worker may be used again."""
        process, self._process = self._process, None
        self._read.clear()
        if process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children too: it leads its own session
        with contextlib.suppress(OSError), process:  # closes the pipes and waits
            pass
        return process.returncode

    def start(self) -> None:
        """Starts the process; `send` does so if there is none."""
        self._process = subprocess.Popen(
            self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=self._environment, start_new_session=True, bufsize=0,
        )  # fmt: skip
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)


def channels(memory_bytes: int) -> tuple[IO[str], IO[str]]:
    """Returns the process's message channels, connects 0 and 1 to /dev/null, and bounds its memory."""
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return open(source, encoding="utf-8"), open(sink, "w", encoding="utf-8", buffering=1)


if __name__ == "__main__":  # MODULE MEMORY_BYTES: runs the module's `main(source, sink)`, and imports it only then
    pipes = channels(int(sys.argv[2]))
    importlib.import_module(sys.argv[1]).main(*pipes)
