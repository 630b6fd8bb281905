"""One program in a jail, from its request to its end: its channels, its clock, and the volume of what it sends.

The part that is the same whatever is asked of the jail; what the lines mean is the caller's. It reads the reply and
the output channel side by side, so that neither can block the other. They are made for this one program. The clock
starts at the reply's first line, `ready`, which is sent before candidate code runs; until then the machine is at fault,
not the candidate. The end is told by the jail's first process, never by the program.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable
from typing import Literal

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox.limits import Limits
from lightningrl.sandbox.process import Ended, Jail

START_LIMIT_S = 20.0
"""For the jail's start, on a machine however loaded; the candidate's own clock begins after it."""
_USED_LIMIT_S = 5.0
"""For a jail that is up to begin another program; a fresh one is tried otherwise."""
_FINISH_LIMIT_S = 1.0
"""For a program of which nothing more is asked to end."""
_CHUNK_BYTES = 1 << 16

Ending = Literal["exit", "timeout", "reply_limit", "output_limit"]


class Run:
    """`reply` and `output` are what has arrived and was not taken yet. Closed by `close`; the jail goes on."""

    def __init__(
        self, jail: Jail, request: bytes, limits: Limits, *, program_filter: bytes = b"", stays_open: bool = False
    ) -> None:
        """request: the server's first line with its newline, and what follows. stays_open: `send` may follow.

        A request that is complete is a file in memory: a pipe could fill up and block. Raises SandboxUnavailable when
        there are no channels to be had.
        """
        self.jail = jail
        self.reply, self.output = bytearray(), bytearray()
        self.ending: Ending | None = None
        """None while it runs."""
        self.ended: Ended | None = None
        """Where the ending is `exit`: what the jail says of it; None: the jail itself has ended."""
        self.is_ready = False
        self.is_ordinary = False
        """Set by the caller: the program did what was asked of it within its limits."""
        self.deadline = time.monotonic() + (_USED_LIMIT_S if jail.programs else START_LIMIT_S)
        """In `time.monotonic()` seconds; moves when `ready` arrives."""
        self._limits, self._reply_bytes, self._pending = limits, 0, memoryview(b"")
        self._selector = selectors.DefaultSelector()
        self._request: int | None = None
        self._open = contextlib.ExitStack()
        self._open.callback(self._selector.close)
        try:
            self._connect(request, program_filter, stays_open)
        except OSError as error:
            self.close()
            raise SandboxUnavailable(f"cannot start a program: {error}. Free some memory or descriptors.") from error

    @property
    def was_refused(self) -> bool:
        """It was killed for what `seccomp.plain_filter` does not allow, or in the same way."""
        return self.ended is not None and self.ended.exit_code == -signal.SIGSYS

    @property
    def leaves_clean(self) -> bool:
        """Whether another program may use the jail."""
        return self.ended is not None and self.ended.is_clean and (self.is_ordinary or self.was_refused)

    @property
    def is_lost(self) -> bool:
        """The jail was killed, by the program or by someone outside; known once the jail has ended."""
        return self.ending == "exit" and self.ended is None and self.jail.is_lost

    def send(self, data: bytes) -> None:
        """Queue data for the program; it is written while `advance` waits."""
        if self._request is None:
            return
        if not self._pending:
            self._selector.register(self._request, selectors.EVENT_WRITE, self._write)
        self._pending = memoryview(bytes(self._pending) + data)

    def begin(self) -> bool:
        """Wait until candidate code is about to run; whether it is."""
        self.advance(lambda: self.is_ready)
        return self.is_ready

    def advance(self, is_enough: Callable[[], bool]) -> None:
        """Wait until `is_enough()`, or the program has ended, or a limit is reached (`ending` says so)."""
        while self.ending is None and not is_enough():
            remaining_s = self.deadline - time.monotonic()
            if remaining_s <= 0:
                self.ending = "timeout"
                return
            for key, _ in self._selector.select(remaining_s):
                key.data()

    def take_line(self) -> bytes | None:
        """The next reply line without its newline, blank ones left out; None: there is none."""
        while b"\n" in self.reply:
            line, _, self.reply = self.reply.partition(b"\n")
            if line:
                return bytes(line)
        return None

    def finish(self) -> None:
        """Nothing more is asked: wait a moment for the end, so that the jail can be used again."""
        if self.ending is None:
            self._close_request()
            self.deadline = min(self.deadline, time.monotonic() + _FINISH_LIMIT_S)
            self.advance(lambda: False)

    def close(self) -> None:
        self._close_request()
        self._open.close()

    def _connect(self, request: bytes, program_filter: bytes, stays_open: bool) -> None:
        with contextlib.ExitStack() as theirs:
            if stays_open:
                their_request, self._request = os.pipe()
                os.set_blocking(self._request, False)
            else:
                their_request = os.memfd_create("request")
            theirs.callback(os.close, their_request)
            if stays_open:
                self.send(request)
            else:
                with open(their_request, "wb", closefd=False) as file:
                    file.write(request)
                os.lseek(their_request, 0, os.SEEK_SET)
            self._reply_fd, their_reply = self._channel(theirs)
            self._output_fd, their_output = self._channel(theirs)
            self._selector.register(self._reply_fd, selectors.EVENT_READ, self._read_reply)
            self._selector.register(self._output_fd, selectors.EVENT_READ, self._read_output)
            self._selector.register(self.jail, selectors.EVENT_READ, self._read_end)
            self.jail.send(program_filter, (their_request, their_reply, their_output))

    def _channel(self, theirs: contextlib.ExitStack) -> tuple[int, int]:
        """A pipe from the program to here; this end closes with the run, the other with `theirs`."""
        ours, their_end = os.pipe()
        self._open.callback(os.close, ours)
        theirs.callback(os.close, their_end)
        os.set_blocking(ours, False)
        return ours, their_end

    def _read_reply(self) -> bool:
        data = self._read(self._reply_fd)
        self.reply += data[: self._limits.reply_bytes + 1 - self._reply_bytes]
        self._reply_bytes += len(data)
        if self._reply_bytes > self._limits.reply_bytes:
            self.ending = "reply_limit"
        elif not self.is_ready and b"\n" in self.reply:
            self.is_ready, self.deadline = True, time.monotonic() + self._limits.wall_s
        return bool(data)

    def _read_output(self) -> bool:
        data = self._read(self._output_fd)
        self.output += data[: self._limits.output_bytes + 1 - len(self.output)]
        if len(self.output) > self._limits.output_bytes:
            self.ending = "output_limit"
        return bool(data)

    def _read(self, fd: int) -> bytes:
        try:
            data = os.read(fd, _CHUNK_BYTES)
        except BlockingIOError:  # several were ready at once, and the end has made `_read_end` read all
            return b""
        if not data and fd in self._selector.get_map():
            self._selector.unregister(fd)
        return data

    def _read_end(self) -> None:
        """What the program has sent before its end is there: it counts, and its volume too."""
        self.ended = self.jail.receive()
        while self.ending is None and self._read_reply():
            pass
        while self.ending is None and self._read_output():
            pass
        self.ending = self.ending or "exit"

    def _write(self) -> None:
        assert self._request is not None
        try:
            self._pending = self._pending[os.write(self._request, self._pending) :]
        except BlockingIOError:
            return
        except OSError:  # nobody reads it any more: what the program still says, and its end, come by the channels
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
