"""A running jail: its command, the control channel to its first process, and its complete removal.

The first process forks one for each program (`parent.py`); `run.ProgramRun` has the channels of a program. Messages of
the jail itself, such as why it cannot start, come through its standard error.
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
    """The report of the jail's first process about the end of a program.

    >>> Ended(exit_code=0, is_clean=True).is_clean
    True
    """

    exit_code: int
    """The exit code; negative: the signal that killed the program."""
    is_clean: bool
    """Nothing of the program is left in the jail."""


class Jail:
    """A jail, which the constructor starts and the caller must `end`. One program at a time; not thread-safe.

    It ends at the latest with the thread that started it, which the kernel regards as its parent.
    """

    def __init__(self, name: str, level: Level, limits: Limits) -> None:
        """Raises SandboxUnavailable when the command cannot be started."""
        self.name, self.level, self.disk_bytes = name, level, limits.disk_bytes
        self.owner = threading.current_thread()
        self.programs = 0
        """The number of programs it has started."""
        self.exit_code: int | None = None
        """The exit code of the level's command once the jail has ended."""
        self.is_lost = False
        """Whether the program, or someone outside, killed it."""
        with contextlib.ExitStack() as stack:
            self.launch: Launch = stack.enter_context(level.launch(limits))
            self._control, self._process = _start(self.launch)
            stack.callback(self._control.close)
            self._resources = stack.pop_all()

    def fileno(self) -> int:
        """Returns the descriptor of the control channel, readable when a program or the jail has ended."""
        return self._control.fileno()

    def send(self, program_filter: bytes, descriptors: Sequence[int]) -> None:
        """Starts a program with the descriptors of request, reply and output. `receive` reports an ended jail."""
        self.programs += 1
        with contextlib.suppress(OSError):
            socket.send_fds(self._control, [b"." + program_filter], descriptors)

    def receive(self) -> Ended | None:
        """Returns how the program has ended; None: the jail has ended."""
        try:
            message = self._control.recv(_MESSAGE_BYTES)
        except OSError:
            message = b""
        if not message:
            with contextlib.suppress(subprocess.TimeoutExpired):  # its last descriptors are closed, so it exits soon
                self._process.wait(_TEARDOWN_S)
            return None
        found = json.loads(message)
        return Ended(found["ended"], found["clean"])

    def error_output(self) -> str:
        """Returns the last 500 bytes of the jail's standard error."""
        stream = self._process.stderr
        assert stream is not None
        tail = b""
        os.set_blocking(stream.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(stream.fileno(), _CHUNK_BYTES):
                tail = (tail + data)[-500:]
        return tail.decode(errors="replace").strip()

    def end(self) -> str:
        """Ends the jail with all its processes, sets `exit_code` and `is_lost`, and returns its error output."""
        if self.exit_code is not None:
            return ""
        with self._resources, self._process:
            was_running = self._process.poll() is None
            error_output = self.error_output()
            if was_running:
                _kill(self._process)
            self.exit_code = self._process.wait()
        self.is_lost = not was_running and self.exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL)
        return error_output


def _start(launch: Launch) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                # In its own session a Ctrl-C at the terminal reaches the judge only.
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
    """Kills the first process of the namespace, which is a child of the level's command, and then the command.

    Everything in the namespace dies with its first process. If the command were killed first, that process would
    become an orphan.
    """
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
    _wait_for_silence(process)
    process.kill()


def _wait_for_silence(process: subprocess.Popen[bytes]) -> None:
    """Waits until the level's command, the last process that has its standard error open, has ended."""
    assert process.stderr is not None
    waiting = select.poll()
    waiting.register(process.stderr, select.POLLIN)
    deadline = time.monotonic() + _TEARDOWN_S
    while (remaining_s := deadline - time.monotonic()) > 0:
        if waiting.poll(1000 * remaining_s) and not os.read(process.stderr.fileno(), _CHUNK_BYTES):
            return
