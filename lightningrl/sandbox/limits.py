"""The limits of one judgement, and its results. Data only."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

CallError = Literal["load_error", "exception", "not_plain_data", "not_run"]
JailStatus = Literal["ok", "timeout", "output_limit", "crashed"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one judgement: a program that is loaded once, and all its calls.

    >>> Limits(wall_s=1.5).rlimits()["CPU"], Limits().memory_bytes // 2**20
    (3, 512)
    """

    wall_s: float = 4.0
    """Wall time in seconds from just before candidate code is loaded; then the whole jail is killed."""
    memory_bytes: int = 512 * 2**20
    """Address space of each process."""
    output_bytes: int = 64 * 2**10
    """The output of a script to stdout. Its output to stderr, and all output of a function, is dropped."""
    reply_bytes: int = 4 * 2**20
    """The encoded size of all answers together."""
    source_bytes: int = 2**20
    """The length of the program in UTF-8."""
    file_bytes: int = 16 * 2**20
    """The size of one file."""
    disk_bytes: int = 64 * 2**20
    """The size of the working folder, a tmpfs."""
    open_files: int = 64
    """The descriptors of each process."""
    processes: int = 16
    """The processes and threads of each jail. (On kernels before 5.14 an ordinary user's processes count too.)"""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"sandbox limit {field.name} is {value}: expected a positive number")

    def rlimits(self) -> dict[str, int]:
        """Returns POSIX resource limits by name without `RLIMIT_`; CPU in whole seconds, beyond the wall limit."""
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
    """The answer to one call."""

    value: Any = None
    """The returned value, rebuilt from plain data; also None when `error` is set."""
    error: CallError | None = None
    """None: the call returned. `load_error`: the program did not load; `exception`: the call raised; `not_plain_data`:
    the returned value cannot cross; `not_run`: no answer arrived (see the status of the judgement)."""
    message: str = ""
    """The error in at most 200 ASCII characters; candidate code wrote it, so it is never to be trusted."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of every program that has run in a jail."""

    status: JailStatus
    """`ok`: it ended by itself, and every call has an answer (a value or an error); else why it ended."""
    level: str
    """The level of the jail."""
    detail: str
    """One line for people; empty when the status is `ok`."""
    is_lost: bool
    """The status is `crashed` because the program, or someone outside, killed the jail."""


@dataclass(frozen=True, slots=True)
class CallResults(Judgement):
    """The results of all calls to one program."""

    calls: tuple[CallResult, ...]
    """One result per call, in order; answers before a timeout or a crash are kept."""


@dataclass(frozen=True, slots=True)
class ScriptResult(Judgement):
    """The result of one run of a program that reads stdin and prints."""

    output: str
    """The received output to stdout within the limit; bytes that are not UTF-8 are replaced."""
    exit_code: int | None
    """Set if the status is `ok`: 0 for a normal end, 1 for an uncaught exception, minus the number of a signal."""
