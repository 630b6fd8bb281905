"""A program in a jail that answers one request after another: the judge's side of `server.py`'s mode `dialogue`.

It passes lines on in both directions and reads only the first two: a process that may be lost
(`lightningrl.judges.code.test_runner`) reads the candidate's lines strictly, where they are used.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass

from lightningrl.sandbox import codec
from lightningrl.sandbox.levels import Level
from lightningrl.sandbox.limits import JailStatus, Limits
from lightningrl.sandbox.pool import JailPool
from lightningrl.sandbox.run import ProgramRun
from lightningrl.sandbox.session import describe_ending, make_request, running


@dataclass(frozen=True, slots=True)
class LoadError:
    """The error of a program that did not load; candidate code wrote it.

    >>> LoadError("SyntaxError: invalid syntax", "SyntaxError").kind
    'SyntaxError'
    """

    message: str
    kind: str
    """The nearest builtin class of the exception."""


class Dialogue:
    """See the module. `lightningrl.sandbox.jail.open_dialogue` creates it."""

    def __init__(self, level: str, run: ProgramRun | None, limits: Limits, load_error: LoadError | None = None):
        self.level = level
        self.load_error = load_error
        """None: the program is loaded, or the jail ended during the loading (see `status`)."""
        self._run, self._limits = run, limits
        self._broken = ""
        self._is_unanswered = False
        if run is not None:
            line = self._next_line()
            if line is None:
                self._is_unanswered = True
            else:
                self.load_error = self._read_load(line)

    @property
    def is_over(self) -> bool:
        return self._run is None or self._run.ending is not None or bool(self._broken)

    @property
    def deadline(self) -> float:
        """The deadline of the whole judgement in `time.monotonic()` seconds."""
        return time.monotonic() if self._run is None else self._run.deadline

    @property
    def is_lost(self) -> bool:
        """See `lightningrl.sandbox.limits.CallResults`; known after the context."""
        return self._run is not None and self._run.is_lost

    @property
    def was_refused(self) -> bool:
        """Whether the program needs more than a shared jail allows: judge it in its own jail."""
        return self._run is not None and self._run.was_refused

    def ask(self, line: str) -> str | None:
        """Sends one operation and returns one line, which may be anything; None: the jail has ended, see `status`."""
        answer = None
        if self._run is not None and not self.is_over:
            self._run.send(line.encode("ascii") + b"\n")
            answer = self._next_line()
        self._is_unanswered = self._is_unanswered or answer is None
        return None if answer is None else answer.decode("latin-1")

    def status(self) -> tuple[JailStatus, str]:
        """Returns `ok` as long as every request has an answer and no limit is reached, and a readable reason.

        The end of a program after its last answer, or because it does not load, is not a crash: timing would decide
        whether it is noticed.
        """
        if self._run is None:
            return "ok", ""
        if self._broken:
            return "crashed", self._broken
        is_ok = self._run.ending in (None, "exit") and not self._is_unanswered
        return ("ok", "") if is_ok else describe_ending(self._run, self._limits)

    def _next_line(self) -> bytes | None:
        assert self._run is not None
        self._run.reply = self._run.reply.lstrip(b"\n")
        run = self._run
        run.advance(lambda: b"\n" in run.reply.lstrip(b"\n"))
        return None if run.ending in ("reply_limit", "output_limit") else run.take_line()

    def _read_load(self, line: bytes) -> LoadError | None:
        """Reads the line after loading. A candidate that forges it loses the calls, or answers them as it likes."""
        try:
            answer = codec.loads(line.decode("ascii"))
        except ValueError:
            answer = None
        if answer == {"loaded": True}:
            return None
        if type(answer) is dict and set(answer) == {"load_error", "type"}:
            message, kind = answer["load_error"], answer["type"]
            if type(message) is str and type(kind) is str:
                return LoadError(message[:200].encode("ascii", "backslashreplace").decode(), kind[:40])
        self._broken = "the reply channel carried something else while the program was loading"
        return None


@contextlib.contextmanager
def open_session(
    name: str, level: Level, source: str, entry_point: str, limits: Limits, pool: JailPool | None = None
) -> Iterator[Dialogue]:
    """Yields a dialogue at one level. Raises SandboxUnavailable when the jail does not start."""
    make = functools.partial(make_request, "dialogue", source, limits, entry_point=entry_point)
    with running(name, level, limits, make, pool, stays_open=True) as run:
        run.take_line()  # `ready`
        dialogue = Dialogue(name, run, limits)
        yield dialogue
        if pool is not None and dialogue.status()[0] == "ok":
            run.finish()
            run.is_ordinary = True
