"""One jailed process from start to end: its clock, the volume of what it sends, and nothing of it left behind.

The part that is the same whatever is asked of the jail; what the lines mean is the caller's. It reads the reply and
the output channel side by side, so that neither can block the other. The clock starts at the reply's first line,
`ready`, which is sent before candidate code runs; until then the machine is at fault, not the candidate.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox.levels import Launch
from lightningrl.sandbox.limits import Limits

START_LIMIT_S = 20.0
"""For the jail's start, on a machine however loaded; the candidate's own clock begins after it."""
_TEARDOWN_S = 2.0
_CHUNK_BYTES = 1 << 16
_ENDED = b'{"ended":'

Ending = Literal["exit", "timeout", "reply_limit", "output_limit"]


class JailProcess:
    """A context: the process lives inside it. `reply` and `output` are what has arrived and was not taken yet."""

    def __init__(self, launch: Launch, request: bytes, limits: Limits, stays_open: bool = False) -> None:
        """request: the server's first line with its newline, and what follows. stays_open: `send` may follow.

        A request that is complete is a file in memory: a pipe could fill up and block. Raises SandboxUnavailable when
        the command cannot be started.
        """
        self.reply, self.output = bytearray(), bytearray()
        self.ending: Ending | None = None
        """None while it runs."""
        self.exit_code: int | None = None
        """Of the level's command, once the context is left."""
        self.is_lost = False
        """Killed, and not by us: by the candidate, or by someone outside."""
        self.deadline = time.monotonic() + START_LIMIT_S
        """In `time.monotonic()` seconds; moves when `ready` arrives."""
        self._limits = limits
        self._is_ready = False
        self._reply_bytes = 0
        self._pending = memoryview(b"")
        self._process = _start(launch, None if stays_open else request)
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None and self._process.stderr is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ, self._read_reply)
        self._selector.register(self._process.stderr, selectors.EVENT_READ, self._read_output)
        if stays_open:
            assert self._process.stdin is not None
            os.set_blocking(self._process.stdin.fileno(), False)
            self.send(request)

    def __enter__(self) -> JailProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._selector.close()
        with self._process:
            was_running = self._process.poll() is None
            self.exit_code = _end(self._process)
        self.is_lost = not was_running and self.exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL)

    def send(self, data: bytes) -> None:
        """Queue data for the process; it is written while `advance` waits."""
        if self._process.stdin is None or self._process.stdin.closed:
            return
        if not self._pending:
            self._selector.register(self._process.stdin, selectors.EVENT_WRITE, self._write)
        self._pending = memoryview(bytes(self._pending) + data)

    def advance(self, is_enough: Callable[[], bool]) -> None:
        """Wait until `is_enough()`, or the process has ended, or a limit is reached (`ending` says so)."""
        while self.ending is None and not is_enough():
            remaining_s = self.deadline - time.monotonic()
            if remaining_s <= 0:
                self.ending = "timeout"
                return
            for key, _ in self._selector.select(remaining_s):
                key.data()
            if self._process.stdout not in self._open() and self._process.stderr not in self._open():
                self._wait()

    def take_line(self) -> bytes | None:
        """The next reply line without its newline, blank ones left out; None: there is none, or it is the end's."""
        while b"\n" in self.reply:
            line, _, rest = self.reply.partition(b"\n")
            if line.startswith(_ENDED):
                return None
            self.reply = rest
            if line:
                return bytes(line)
        return None

    def read_the_rest(self) -> None:
        """What was printed so far and is still in the pipe, so that the output limit does not depend on timing."""
        stream = self._process.stderr
        assert stream is not None
        os.set_blocking(stream.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while len(self.output) <= self._limits.output_bytes and (data := os.read(stream.fileno(), _CHUNK_BYTES)):
                self.output += data
        if len(self.output) > self._limits.output_bytes:
            self.ending = "output_limit"

    def _open(self) -> list[object]:
        return [key.fileobj for key in self._selector.get_map().values()]

    def _read_reply(self) -> None:
        assert self._process.stdout is not None
        data = self._read(self._process.stdout)
        allowed = self._limits.reply_bytes + 1 - self._reply_bytes
        self.reply += data[:allowed]
        self._reply_bytes += len(data)
        if self._reply_bytes > self._limits.reply_bytes:
            self.ending = "reply_limit"
        elif self.reply.endswith(b"\n") and self.reply.startswith(_ENDED, self.reply.rfind(b"\n", 0, -1) + 1):
            self.ending = "exit"
            self.read_the_rest()
        elif not self._is_ready and b"\n" in self.reply:
            self._is_ready, self.deadline = True, time.monotonic() + self._limits.wall_s

    def _read_output(self) -> None:
        assert self._process.stderr is not None
        data = self._read(self._process.stderr)
        self.output += data[: self._limits.output_bytes + 1 - len(self.output)]
        if len(self.output) > self._limits.output_bytes:
            self.ending = "output_limit"

    def _read(self, stream: IO[bytes]) -> bytes:
        try:
            data = os.read(stream.fileno(), _CHUNK_BYTES)
        except BlockingIOError:  # both channels were ready, and the end on one made `read_the_rest` empty the other
            return b""
        if not data:
            self._selector.unregister(stream)
        return data

    def _write(self) -> None:
        stream = self._process.stdin
        assert stream is not None
        try:
            self._pending = self._pending[os.write(stream.fileno(), self._pending) :]
        except OSError:  # nobody reads it any more: what the process still says, and its end, come by the channels
            self._pending = memoryview(b"")
        if not self._pending:
            self._selector.unregister(stream)

    def _wait(self) -> None:
        try:
            self._process.wait(max(0.0, self.deadline - time.monotonic()))
            self.ending = "exit"
        except subprocess.TimeoutExpired:
            self.ending = "timeout"


def _start(launch: Launch, request: bytes | None) -> subprocess.Popen[bytes]:
    request_fd = None
    try:
        if request is not None:
            request_fd = os.memfd_create("request")
            with open(request_fd, "wb", closefd=False) as file:
                file.write(request)
            os.lseek(request_fd, 0, os.SEEK_SET)
        return subprocess.Popen(
            launch.argv, stdin=subprocess.PIPE if request_fd is None else request_fd, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env={}, cwd="/", pass_fds=launch.fds, bufsize=0,
        )  # fmt: skip
    except OSError as error:
        remedy = "Free some memory or processes."
        raise SandboxUnavailable(f"cannot start {launch.argv[0]}: {error}. {remedy}") from error
    finally:
        if request_fd is not None:
            os.close(request_fd)


def _end(process: subprocess.Popen[bytes]) -> int:
    """End the jail if it still runs; its exit code.

    The level's command keeps the namespace's first process as its child. That one is killed first, and everything in
    the namespace dies with it; then the command collects it and ends. Killed from above it would become an orphan.
    """
    if process.poll() is None:
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        _wait_for_silence(process)
        process.kill()
    return process.wait()


def _wait_for_silence(process: subprocess.Popen[bytes]) -> None:
    """After the kill, wait until the last holder of the channels, the level's command among them, is gone."""
    assert process.stdout is not None and process.stderr is not None
    deadline = time.monotonic() + _TEARDOWN_S
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map() and (remaining_s := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(remaining_s):
                try:
                    is_over = not os.read(key.fd, _CHUNK_BYTES)
                except BlockingIOError:  # another reader was faster
                    is_over = False
                if is_over:
                    selector.unregister(key.fileobj)
