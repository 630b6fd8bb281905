"""What one judgement may use, and what came of it. Data only."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

CallError = Literal["load_error", "exception", "not_plain_data", "not_run"]
JailStatus = Literal["ok", "timeout", "output_limit", "crashed"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one judgement: a program loaded once and all its calls.

    >>> Limits(wall_s=1.5).rlimits()["CPU"], Limits().memory_bytes // 2**20
    (3, 512)
    """

    wall_s: float = 4.0
    """Wall time in seconds, from just before candidate code is loaded; then the whole namespace is killed."""
    memory_bytes: int = 512 * 2**20
    """Address space of each process."""
    output_bytes: int = 64 * 2**10
    """What a script may print to stdout. What it prints to stderr, and what a function prints, is dropped."""
    reply_bytes: int = 4 * 2**20
    """All answers together, encoded."""
    source_bytes: int = 2**20
    """Length of the program, UTF-8."""
    file_bytes: int = 16 * 2**20
    """Size of one file."""
    disk_bytes: int = 64 * 2**20
    """Size of the working folder, a tmpfs."""
    open_files: int = 64
    """Descriptors of each process."""
    processes: int = 16
    """Processes and threads, each jail's own count. (An ordinary user's processes count too on kernels before 5.14.)"""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"sandbox limit {field.name} is {value}: expected a positive number")

    def rlimits(self) -> dict[str, int]:
        """POSIX resource limits by name without `RLIMIT_`; CPU in whole seconds, beyond the wall limit."""
        return {
            "AS": self.memory_bytes,
            "CPU": math.ceil(self.wall_s) + 1,
            "FSIZE": self.file_bytes,
            "NOFILE": self.open_files,
            "NPROC": self.processes,
            "CORE": 0,
            "MSGQUEUE": 0,
        }


@dataclass(frozen=True, slots=True)
class CallResult:
    """One call's answer.

    >>> CallResult(value=(1, 2)).error is None
    True
    >>> CallResult(error="exception", message="ZeroDivisionError: division by zero").value is None
    True
    """

    value: Any = None
    """What the function returned, rebuilt from plain data; None as well when `error` is set."""
    error: CallError | None = None
    """None: it returned. `load_error`: the program did not load; `exception`: the call raised; `not_plain_data`: it
    returned something that cannot cross; `not_run`: no answer came (see the status of the judgement)."""
    message: str = ""
    """What candidate code raised, in at most 200 ASCII characters; written by candidate code, never to be trusted."""


@dataclass(frozen=True, slots=True)
class CallResults:
    """What came out of one jail.

    >>> CallResults("timeout", (CallResult(value=1), CallResult(error="not_run")), "bwrap", "4 s are over", 4.02).status
    'timeout'
    """

    status: JailStatus
    """`ok`: every call is answered (with a value or an error), or the program did not load; else why it ended."""
    calls: tuple[CallResult, ...]
    """One for each call asked for, in order; those answered before a timeout or a crash keep their answer."""
    level: str
    """The level of the jail."""
    detail: str
    """One line for people; empty when the status is `ok`."""
    seconds: float
    """Wall time of the whole judgement, the jail's start included."""
    is_lost: bool = False
    """The status is `crashed` because the jail was killed, and not by us: by the program, or by someone outside."""


@dataclass(frozen=True, slots=True)
class ScriptResult:
    """What came out of one run of a program that reads stdin and prints.

    >>> ScriptResult("ok", "3\\n", "bwrap", "", 0.02, exit_code=0).output
    '3\\n'
    """

    status: JailStatus
    """`ok`: the process ended by itself (see `exit_code`); else why it was ended."""
    output: str
    """What it printed to stdout, as far as it came and within the limit; UTF-8, bytes that are none replaced."""
    level: str
    detail: str
    """One line for people; empty when the status is `ok`."""
    seconds: float
    """Wall time, the jail's start included."""
    is_lost: bool = False
    """As in `CallResults`."""
    exit_code: int | None = None
    """Where the status is `ok`: 0 for a normal end; an uncaught exception gives 1, a signal its negative number."""
