"""A jail that is up: its command, the control channel to its first process, and its end with nothing left behind.

The first process forks one for each program (`parent.py`); a program's own channels are `run.Run`'s. What the jail
itself has to say, such as why it cannot start, comes by its standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox.levels import Launch, Level
from lightningrl.sandbox.limits import Limits

_TEARDOWN_S = 2.0
_CHUNK_BYTES = 1 << 16
_MESSAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Ended:
    """What the jail's first process says of a program's.

    >>> Ended(exit_code=0, is_clean=True).is_clean
    True
    """

    exit_code: int
    """Negative: the signal that killed it."""
    is_clean: bool
    """Nothing of it is left in the jail."""


class Jail:
    """Started by its constructor. Whoever has it ends it, with `end`. One program at a time; not thread-safe.

    It ends with the thread that made it, at the latest: that is what the kernel takes for its parent.
    """

    def __init__(self, name: str, level: Level, limits: Limits) -> None:
        """Raises SandboxUnavailable when the command cannot be started."""
        self.name, self.level, self.disk_bytes = name, level, limits.disk_bytes
        self.owner = threading.current_thread()
        self.programs = 0
        """How many it was given."""
        self.exit_code: int | None = None
        """The exit code of the level's command, once the jail was ended."""
        self.is_lost = False
        """It was killed, and not by `end`: by the program, or by someone outside."""
        with contextlib.ExitStack() as stack:
            self.launch: Launch = stack.enter_context(level.launch(limits))
            self._control, self._process = _start(self.launch)
            stack.callback(self._control.close)
            self._resources = stack.pop_all()

    def fileno(self) -> int:
        """The descriptor of the control channel: readable when a program has ended, or the jail."""
        return self._control.fileno()

    def send(self, program_filter: bytes, descriptors: Sequence[int]) -> None:
        """Begin a program; descriptors: request, reply, output. Where the jail is gone, `receive` says so."""
        self.programs += 1
        with contextlib.suppress(OSError):
            socket.send_fds(self._control, [b"." + program_filter], descriptors)

    def receive(self) -> Ended | None:
        """How the program has ended; None: the jail has."""
        try:
            message = self._control.recv(_MESSAGE_BYTES)
        except OSError:
            message = b""
        if not message:
            with contextlib.suppress(subprocess.TimeoutExpired):  # its last descriptors are closed, its exit is near
                self._process.wait(_TEARDOWN_S)
            return None
        found = json.loads(message)
        return Ended(found["ended"], found["clean"])

    def error_output(self) -> str:
        """The end of what the jail has said to people."""
        stream = self._process.stderr
        assert stream is not None
        words = b""
        os.set_blocking(stream.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(stream.fileno(), _CHUNK_BYTES):
                words = (words + data)[-500:]
        return words.decode(errors="replace").strip()

    def end(self) -> str:
        """End all of the jail, if it still runs; its last words. `exit_code` and `is_lost` are known afterwards."""
        if self.exit_code is not None:
            return ""
        with self._resources, self._process:
            was_running = self._process.poll() is None
            words = self.error_output()
            if was_running:
                _kill(self._process)
            self.exit_code = self._process.wait()
        self.is_lost = not was_running and self.exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL)
        return words


def _start(launch: Launch) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                # A session of its own: a Ctrl-C at the terminal is for the judge to act on.
                return ours, subprocess.Popen(
                    launch.argv, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={},
                    cwd="/", pass_fds=launch.fds, bufsize=0, start_new_session=True,
                )  # fmt: skip
            except BaseException:
                ours.close()
                raise
    except OSError as error:
        remedy = "Free some memory or processes."
        raise SandboxUnavailable(f"cannot start {launch.argv[0]}: {error}. {remedy}") from error


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The level's command keeps the namespace's first process as its child. That one is killed first, and everything
    in the namespace dies with it; then the command collects it and ends. Killed from above it would become an orphan.
    """
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
    _wait_for_silence(process)
    process.kill()


def _wait_for_silence(process: subprocess.Popen[bytes]) -> None:
    """After the kill, wait until the last holder of its standard error, the level's command, is gone."""
    assert process.stderr is not None
    waiting = select.poll()
    waiting.register(process.stderr, select.POLLIN)
    deadline = time.monotonic() + _TEARDOWN_S
    while (remaining_s := deadline - time.monotonic()) > 0:
        if waiting.poll(1000 * remaining_s) and not os.read(process.stderr.fileno(), _CHUNK_BYTES):
            return
