"""One program in a jail, from its request to its end: its channels, its clock, and the volume of what it sends.

This part is the same for all kinds of requests; the caller interprets what arrives. The clock starts at the reply's
first line, `ready`, which is sent before candidate code runs; a delay before it is the machine's, not the candidate's.
The first process of the jail reports the end, never the program.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import time
from typing import Literal

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox.limits import JailStatus, Limits
from lightningrl.sandbox.process import Ended, Jail

START_LIMIT_S = 20.0
"""The limit for the start of a jail on a loaded machine; the candidate's own clock begins after it."""
_USED_LIMIT_S = 5.0
"""The limit for a used jail to begin another program; then a fresh jail is tried."""
_FINISH_LIMIT_S = 1.0
"""The limit for a program to end after its last request."""
_CHUNK_BYTES = 1 << 16
_BLANK_LINES = re.compile(rb"\n*")

Mode = Literal["calls", "dialogue", "script"]
"""The kinds of requests; see `server.py`."""


class ProgramRun:
    """A running program; `close` leaves the jail up."""

    def __init__(self, jail: Jail, mode: Mode, request: bytes, limits: Limits, program_filter: bytes = b"") -> None:
        """Starts a program. `request` is the server's first line with its newline, and what follows.

        In a dialogue `send` may follow. Any other request is a file in memory, since a pipe could fill up and block.
        Raises SandboxUnavailable when the channels cannot be created.
        """
        self.jail, self._limits, self._mode = jail, limits, mode
        self.reply = bytearray()
        """What has arrived: the line `ready`, then answers or what a script has printed."""
        self.ending: Literal["exit", "timeout", "too much"] | None = None
        """None while the program runs."""
        self.ended: Ended | None = None
        """The jail's report if the ending is `exit`; None: the jail itself has ended."""
        self.is_ordinary = False
        """Set by the caller: the program completed its request within the limits."""
        self.deadline = time.monotonic() + (_USED_LIMIT_S if jail.programs else START_LIMIT_S)
        """In `time.monotonic()` seconds; set anew when candidate code begins."""
        self._most_bytes = limits.output_bytes if mode == "script" else limits.reply_bytes
        self._taken, self._pending = 0, memoryview(b"")
        self._selector = selectors.DefaultSelector()
        self._request: int | None = None
        self._open = contextlib.ExitStack()
        self._open.callback(self._selector.close)
        try:
            self._connect(request, program_filter)
        except OSError as error:
            self.close()
            raise SandboxUnavailable(f"cannot start a program: {error}. Free some memory or descriptors.") from error

    @property
    def was_refused(self) -> bool:
        """Whether it was killed by the signal of a system call that `seccomp.plain_filter` does not allow: judge it in
        its own jail."""
        return self.ended is not None and self.ended.exit_code == -signal.SIGSYS

    @property
    def leaves_clean(self) -> bool:
        """Whether another program may use the jail."""
        return self.ended is not None and self.ended.is_clean and (self.is_ordinary or self.was_refused)

    @property
    def is_lost(self) -> bool:
        """Whether the program, or someone outside, killed the jail; known once the jail has ended."""
        return self.ending == "exit" and self.ended is None and self.jail.is_lost

    @property
    def output(self) -> bytes:
        """What has arrived behind the line `ready`, within the limit."""
        first = self.reply.find(b"\n") + 1
        return bytes(self.reply[first : first + self._most_bytes])

    def send(self, data: bytes) -> None:
        """Queues data for the program, which is written while this side waits for its answer."""
        if self._request is None:
            return
        if not self._pending:
            self._selector.register(self._request, selectors.EVENT_WRITE, self._write)
        self._pending = memoryview(bytes(self._pending) + data)

    def begin(self) -> bool:
        """Waits until candidate code is about to run, and returns whether it is."""
        is_ready = self.read_line() is not None
        self.deadline = time.monotonic() + self._limits.wall_s
        return is_ready

    def read_line(self) -> bytes | None:
        """Waits for the next line of the reply that is not blank; None: the program has ended or reached a limit."""
        while True:
            blank = _BLANK_LINES.match(self.reply, self._taken)
            assert blank is not None
            self._taken = blank.end()
            del blank  # what it holds of `reply` could not grow
            if (end := self.reply.find(b"\n", self._taken)) >= 0:
                line, self._taken = bytes(self.reply[self._taken : end]), end + 1
                return line
            if self.ending is not None:
                return None
            self._wait()

    def wait_for_end(self) -> None:
        """Waits until the program has ended or reached a limit (`ending`)."""
        while self.ending is None:
            self._wait()

    def finish(self) -> None:
        """Ends the request and waits a moment for the program's end, so that the jail can be used again."""
        if self.ending is None:
            self._close_request()
            self.deadline = min(self.deadline, time.monotonic() + _FINISH_LIMIT_S)
            self.wait_for_end()

    def describe_ending(self) -> tuple[JailStatus, str]:
        """Returns the status and a readable reason when the program ended before it had answered."""
        if self.ending == "too much":
            what = "printed" if self._mode == "script" else "answers of"
            return "output_limit", f"{what} more than {self._most_bytes} bytes"
        if self.ending == "timeout":
            return "timeout", f"stopped after {self._limits.wall_s:g} s"
        return "crashed", "the process ended before it had answered every call"

    def close(self) -> None:
        self._close_request()
        self._open.close()

    def _connect(self, request: bytes, program_filter: bytes) -> None:
        with contextlib.ExitStack() as theirs:
            if self._mode == "dialogue":
                their_request, self._request = os.pipe()
                os.set_blocking(self._request, False)
                self.send(request)
            else:
                their_request = os.memfd_create("request")
            theirs.callback(os.close, their_request)
            if self._request is None:
                with open(their_request, "wb", closefd=False) as file:
                    file.write(request)
                os.lseek(their_request, 0, os.SEEK_SET)
            self._reply, their_reply = os.pipe()
            self._open.callback(os.close, self._reply)
            theirs.callback(os.close, their_reply)
            os.set_blocking(self._reply, False)
            self._selector.register(self._reply, selectors.EVENT_READ, self._read)
            self._selector.register(self.jail, selectors.EVENT_READ, self._read_end)
            self.jail.send(program_filter, (their_request, their_reply))

    def _wait(self) -> None:
        """Waits until something can be read or written, or until the time is over."""
        remaining_s = self.deadline - time.monotonic()
        if remaining_s <= 0:
            self.ending = "timeout"
            return
        for key, _ in self._selector.select(remaining_s):
            key.data()

    def _read(self) -> bool:
        """Returns whether there was anything to read."""
        try:
            data = os.read(self._reply, _CHUNK_BYTES)
        except BlockingIOError:  # the end was ready too, and `_read_end` has read all
            return False
        if not data and self._reply in self._selector.get_map():
            self._selector.unregister(self._reply)
        self.reply += data
        if len(self.reply) - self.reply.find(b"\n") - 1 > self._most_bytes:
            self.ending = "too much"
        return bool(data)

    def _read_end(self) -> None:
        """Reads all that the program has sent before its end: it counts, also for the limit."""
        self.ended = self.jail.receive()
        while self.ending is None and self._read():
            pass
        self.ending = self.ending or "exit"

    def _write(self) -> None:
        assert self._request is not None
        try:
            self._pending = self._pending[os.write(self._request, self._pending) :]
        except BlockingIOError:
            return
        except OSError:  # nobody reads it any more; the reply brings the last answers and the jail the end
            self._pending = memoryview(b"")
        if not self._pending:
            self._selector.unregister(self._request)

    def _close_request(self) -> None:
        if self._request is None:
            return
        if self._pending:
            self._selector.unregister(self._request)
            self._pending = memoryview(b"")
        os.close(self._request)
        self._request = None
