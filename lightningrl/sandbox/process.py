"""Running jails: the command, the control channel to the first process, complete removal, and a pool of them.

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
from pathlib import Path
from typing import NamedTuple

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox.levels import Level
from lightningrl.sandbox.limits import Limits

PROGRAMS_A_JAIL = 250
"""A jail is replaced after this many: its start is then a hundredth of a program's cost, and more gains little."""
_TEARDOWN_S = 2.0
_CHUNK_BYTES = 1 << 16
_MESSAGE_BYTES = 4096


class Ended(NamedTuple):
    """The report of the jail's first process about the end of a program."""

    exit_code: int
    """The exit code; negative: the signal that killed the program."""
    is_clean: bool
    """Nothing of the program is left in the jail."""


class Jail:
    """A jail, which the constructor starts and the caller must `end`. One program at a time; not thread-safe.

    It ends at the latest with the thread that started it, which the kernel regards as its parent.
    """

    def __init__(self, level: Level, limits: Limits) -> None:
        """Raises SandboxUnavailable when the command cannot be started."""
        self.level, self.disk_bytes = level, limits.disk_bytes
        self.owner = threading.current_thread()
        self.programs = 0
        """The number of programs it has started."""
        self.exit_code: int | None = None
        """The exit code of the level's command once the jail has ended."""
        self.is_lost = False
        """Whether the program, or someone outside, killed it."""
        with contextlib.ExitStack() as stack:
            self.launch = stack.enter_context(level.launch(limits))
            try:
                self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                stack.callback(self._control.close)
                with theirs:
                    # In its own session a Ctrl-C at the terminal reaches the judge only.
                    self._process = subprocess.Popen(
                        self.launch.argv, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                        env={}, cwd="/", pass_fds=self.launch.fds, bufsize=0, start_new_session=True,
                    )  # fmt: skip
            except OSError as error:
                remedy = "Free some memory or processes."
                raise SandboxUnavailable(f"cannot start {self.launch.argv[0]}: {error}. {remedy}") from error
            self._resources = stack.pop_all()
        assert self._process.stderr is not None
        self._error_fd = self._process.stderr.fileno()

    def fileno(self) -> int:
        """Returns the descriptor of the control channel, readable when a program or the jail has ended."""
        return self._control.fileno()

    def send(self, program_filter: bytes, descriptors: Sequence[int]) -> None:
        """Starts a program with the descriptors of request and reply. `receive` reports an ended jail."""
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

    def end(self) -> str:
        """Ends the jail with all its processes, sets `exit_code` and `is_lost`, and returns its error output."""
        if self.exit_code is not None:
            return ""
        with self._resources, self._process:
            was_running = self._process.poll() is None
            error_output = self._error_output()
            if was_running:
                self._kill()
            self.exit_code = self._process.wait()
        self.is_lost = not was_running and self.exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL)
        return error_output

    def _error_output(self) -> str:
        """Returns the last 500 bytes of the jail's standard error."""
        tail = b""
        os.set_blocking(self._error_fd, False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._error_fd, _CHUNK_BYTES):
                tail = (tail + data)[-500:]
        return tail.decode(errors="replace").strip()

    def _kill(self) -> None:
        """Kills the first process of the namespace, which is a child of the level's command, and then the command.

        Everything in the namespace dies with its first process. If the command were killed first, that process would
        become an orphan. The command, the last that has its standard error open, ends by itself then.
        """
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        waiting = select.poll()
        waiting.register(self._error_fd, select.POLLIN)
        deadline = time.monotonic() + _TEARDOWN_S
        while (remaining_s := deadline - time.monotonic()) > 0:
            if waiting.poll(1000 * remaining_s) and not os.read(self._error_fd, _CHUNK_BYTES):
                break
        self._process.kill()


class JailPool:
    """A thread-safe pool of jails that run one program after another, for judges of many programs.

    It has as many jails as are used at the same time, and starts none in advance. A thread gets only jails that it
    started itself: the jail of another thread would be killed in the middle of a program when that thread ends.
    `session.running` decides whether a jail is kept.
    """

    def __init__(self, programs_a_jail: int = PROGRAMS_A_JAIL) -> None:
        self._programs_a_jail = programs_a_jail
        self._waiting: list[Jail] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def count_waiting(self) -> int:
        return len(self._waiting)

    def take(self, level: Level, limits: Limits) -> Jail | None:
        """Removes and returns a jail of this thread, level and size of the work folder; None: there is none."""
        key = (threading.current_thread(), level.name, limits.disk_bytes)
        with self._lock:
            for jail in reversed(self._waiting):
                if (jail.owner, jail.level.name, jail.disk_bytes) == key:
                    self._waiting.remove(jail)
                    return jail
        return None

    def put(self, jail: Jail) -> None:
        """Adds a jail in which nothing of its last program is left."""
        with self._lock:
            is_kept = not self._is_closed and jail.programs < self._programs_a_jail
            waiting = [*self._waiting, jail] if is_kept else self._waiting
            self._waiting = [other for other in waiting if other.owner.is_alive()]
            ended = {*waiting, jail} - {*self._waiting}
        for other in ended:
            other.end()

    def close(self) -> None:
        """Ends the waiting jails and, from now on, every jail that is put back. Further use works without a gain."""
        with self._lock:
            self._is_closed = True
            waiting, self._waiting = self._waiting, []
        for jail in waiting:
            jail.end()
