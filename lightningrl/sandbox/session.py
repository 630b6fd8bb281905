"""One program in a jail of a given level: send the request, wait, read the answers strictly.

This is the judge's side of `server.py`. It trusts nothing that arrives after the line `ready`, which is sent before
candidate code runs: a line that violates the protocol ends the judgement as `crashed`. Exit codes and printed text are
never a verdict. A jail that does not reach `ready` is our failure, not the candidate's: SandboxUnavailable.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox import codec, seccomp
from lightningrl.sandbox.levels import Level, next_uid
from lightningrl.sandbox.limits import CallResult, CallResults, JailStatus, Limits, ScriptResult
from lightningrl.sandbox.process import Jail, JailPool
from lightningrl.sandbox.run import START_LIMIT_S, Mode, ProgramRun

Result = TypeVar("Result")
_plain_filter = functools.cache(seccomp.plain_filter)


@dataclass(frozen=True)
class Place:
    """Where and how a program runs: in a fresh jail or, with a pool, in one that may run others before and after it."""

    level: Level
    limits: Limits = field(default_factory=Limits)
    pool: JailPool | None = None


class LoadError(NamedTuple):
    """The error of a program that did not load; candidate code wrote it."""

    message: str
    kind: str
    """The nearest builtin class of the exception."""


def run_calls(place: Place, source: str, entry_point: str, calls: Sequence[Sequence[Any]]) -> CallResults:
    """See `lightningrl.sandbox.jail.run_calls`."""
    lines = call_lines(calls)

    def attempt(pool: JailPool | None) -> tuple[CallResults, bool]:
        with running(replace(place, pool=pool), "calls", source, entry_point, lines) as run:
            run.wait_for_end()
            results, is_complete, broken = _read_answers(list(iter(run.read_line, None)), len(calls))
            status, detail = "ok", ""
            if run.ending == "too much" or (broken is None and not is_complete):
                status, detail = run.describe_ending()
            elif isinstance(broken, codec.TooLarge):
                status, detail = "output_limit", f"answers {broken}"
            elif broken is not None:
                status, detail = "crashed", f"the reply channel carried something else: {str(broken)[:200]}"
            run.is_ordinary = status == "ok"
        is_lost = status == "crashed" and run.is_lost
        return CallResults(status, place.level.name, detail, is_lost, results), run.was_refused

    return rerun_alone_if_refused(attempt, place.pool)


def run_script(place: Place, source: str, stdin: str) -> ScriptResult:
    """See `lightningrl.sandbox.jail.run_script`."""
    data = stdin.encode(errors="surrogatepass")

    def attempt(pool: JailPool | None) -> tuple[ScriptResult, bool]:
        with running(replace(place, pool=pool), "script", source, rest=data) as run:
            run.wait_for_end()
            exit_code = run.ended.exit_code if run.ending == "exit" and run.ended is not None else None
            status, detail = run.describe_ending() if exit_code is None else ("ok", "")
            run.is_ordinary = exit_code is not None and exit_code >= 0
        is_lost, output = status == "crashed" and run.is_lost, run.output.decode(errors="replace")
        return ScriptResult(status, place.level.name, detail, is_lost, output, exit_code), run.was_refused

    return rerun_alone_if_refused(attempt, place.pool)


class Dialogue(ProgramRun):
    """A program in a jail that answers one request after another; `open_dialogue` creates it.

    It passes lines on in both directions and reads only the first one: a process that may be lost
    (`lightningrl.judges.code.test_runner`) reads the candidate's lines strictly, where they are used.
    """

    load_error: LoadError | None = None
    """None: the program is loaded, or the jail ended during the loading (see `status`)."""
    _broken = ""
    _is_unanswered = False

    @property
    def level(self) -> str:
        return self.jail.level.name

    @property
    def is_over(self) -> bool:
        return self.ending is not None or bool(self._broken)

    def load(self) -> None:
        """Waits until the program is loaded or not. A candidate that forges the line loses the calls, or answers them
        as it likes."""
        line = self._next_line()
        try:
            self.load_error = None if line is None else _read_load(line)
        except ValueError:
            self._broken = "the reply channel carried something else while the program was loading"

    def ask(self, line: str) -> str | None:
        """Sends one operation and returns one line, which may be anything; None: the jail has ended, see `status`."""
        if self.is_over:
            self._is_unanswered = True
            return None
        self.send(line.encode("ascii") + b"\n")
        answer = self._next_line()
        return None if answer is None else answer.decode("latin-1")

    def status(self) -> tuple[JailStatus, str]:
        """Returns `ok` as long as every request has an answer and no limit is reached, and a readable reason.

        The end of a program after its last answer, or because it does not load, is not a crash: timing would decide
        whether it is noticed.
        """
        if self._broken:
            return "crashed", self._broken
        is_ok = self.ending in (None, "exit") and not self._is_unanswered
        return ("ok", "") if is_ok else self.describe_ending()

    def _next_line(self) -> bytes | None:
        line = self.read_line()
        if line is None or self.ending == "too much":
            self._is_unanswered = True
            return None
        return line


@contextlib.contextmanager
def open_dialogue(place: Place, source: str, entry_point: str) -> Iterator[Dialogue]:
    """See `lightningrl.sandbox.jail.open_dialogue`."""
    with running(place, "dialogue", source, entry_point) as dialogue:
        assert isinstance(dialogue, Dialogue)
        dialogue.load()
        yield dialogue
        if place.pool is not None and dialogue.status()[0] == "ok":
            dialogue.finish()
            dialogue.is_ordinary = True


def rerun_alone_if_refused(attempt: Callable[[JailPool | None], tuple[Result, bool]], pool: JailPool | None) -> Result:
    """Returns the result in a jail of the pool or, if the program was refused there, in its own jail."""
    result, was_refused = attempt(pool)
    return attempt(None)[0] if was_refused and pool is not None else result


@contextlib.contextmanager
def running(place: Place, mode: Mode, source: str, entry_point: str = "", rest: bytes = b"") -> Iterator[ProgramRun]:
    """Yields a program that is about to begin in a jail (its line `ready` has arrived); `rest` ends its request.

    Without a pool the jail is fresh and ends with the context. A jail of a pool may run other programs before and after
    this one: `seccomp.plain_filter` then restricts the program (see `ProgramRun.was_refused`), and the jail returns to
    the pool only if the program ended by itself, completed its request within the limits (`ProgramRun.is_ordinary`) or
    was refused, and left nothing behind. Raises SandboxUnavailable when the jail does not start; a used jail is first
    replaced.
    """
    level, limits, pool = place.level, place.limits, place.pool
    jail = pool.take(level, limits) if pool is not None else None
    make = Dialogue if mode == "dialogue" else ProgramRun
    run = None
    try:
        while run is None:
            is_fresh, jail = jail is None, jail or Jail(level, limits)
            first = {
                "mode": mode, "source": source, "entry_point": entry_point,
                "limits": limits.rlimits() | jail.launch.rlimits, "uid": next_uid() if jail.launch.takes_uid else None,
            }  # fmt: skip
            request = codec.dumps(first).encode("ascii") + b"\n" + rest
            run = make(jail, mode, request, limits, b"" if pool is None else _plain_filter())
            if not run.begin():
                run.close()
                error_output = jail.end() or f"no answer within {START_LIMIT_S:.0f} s"
                if is_fresh:
                    raise SandboxUnavailable(
                        f"the jail ({level.name}) did not start: {error_output} (exit code {jail.exit_code}). "
                        f"{level.remedy[0].upper()}{level.remedy[1:]}."
                    )
                run = jail = None
        yield run
    finally:
        if run is not None:
            run.close()
        if jail is not None and pool is not None and run is not None and run.leaves_clean:
            pool.put(jail)
        elif jail is not None:
            jail.end()


def call_lines(calls: Sequence[Sequence[Any]]) -> bytes:
    """Returns the rest of a request in the mode `calls`. Raises CodecError for arguments that are not plain data."""
    operation = {"op": "call", "target": None, "kwargs": {}}
    lines = [codec.dumps({"id": number, "args": list(args)} | operation) for number, args in enumerate(calls)]
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def _read_load(line: bytes) -> LoadError | None:
    """Reads the line after loading. Raises ValueError (CodecError and UnicodeDecodeError are some) for another one."""
    answer = codec.loads(line.decode("ascii"))
    if answer == {"loaded": True}:
        return None
    if type(answer) is not dict or set(answer) != {"load_error", "type"}:
        raise codec.CodecError("expected to hear that the program is loaded")
    return LoadError(_text(answer["load_error"]), _text(answer["type"]))


def _read_answers(lines: Sequence[bytes], n_calls: int) -> tuple[tuple[CallResult, ...], bool, ValueError | None]:
    """Returns the results in order, whether they are complete, and the error of the first invalid line."""
    results: list[CallResult] = []
    budget, broken = codec.Budget(), None
    try:
        if lines and (load_error := _read_load(lines[0])) is not None:
            return (CallResult(error="load_error", message=load_error.message),) * n_calls, True, None
        for line in lines[1:]:
            results.append(_read_call(codec.loads(line.decode("ascii"), budget), len(results), n_calls))
    except ValueError as error:
        broken = error
    is_complete = bool(lines) and len(results) == n_calls
    results += [CallResult(error="not_run")] * (n_calls - len(results))
    return tuple(results), is_complete, broken


def _read_call(answer: Any, number: int, n_calls: int) -> CallResult:
    if type(answer) is not dict or type(answer.get("id")) is not int or answer["id"] != number:
        raise codec.CodecError(f"expected the answer to call {number}")
    if number >= n_calls:
        raise codec.CodecError("more answers than calls")
    if set(answer) == {"id", "value"}:
        return CallResult(value=answer["value"])
    if set(answer) == {"id", "error", "type", "message"} and answer["error"] in ("exception", "not_plain_data"):
        return CallResult(error=answer["error"], message=_text(answer["message"]))
    raise codec.CodecError("an answer of another form")


def _text(message: Any) -> str:
    if type(message) is not str:
        raise codec.CodecError("a message that is not text")
    return message[:200].encode("ascii", "backslashreplace").decode()
