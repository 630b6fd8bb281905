"""One program and all its calls: send the request, wait, read the answers strictly.

This is the judge's side of `server.py`'s modes `calls` and `script`. It trusts nothing that arrives after the line
`ready`, which is sent before candidate code runs: a line that violates the protocol ends the judgement as `crashed`.
Exit codes and printed text are never a verdict. A jail that does not reach `ready` is our failure, not the candidate's:
SandboxUnavailable.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox import codec, seccomp
from lightningrl.sandbox.levels import Level
from lightningrl.sandbox.limits import CallResult, CallResults, JailStatus, Limits, ScriptResult
from lightningrl.sandbox.pool import JailPool
from lightningrl.sandbox.process import Jail
from lightningrl.sandbox.run import START_LIMIT_S, ProgramRun
from lightningrl.sandbox.start import next_uid

Result = TypeVar("Result")
_plain_filter = functools.cache(seccomp.plain_filter)


def run_session(
    name: str,
    level: Level,
    source: str,
    entry_point: str,
    calls: Sequence[Sequence[Any]],
    limits: Limits,
    pool: JailPool | None = None,
) -> CallResults:
    """Runs the calls of one program at one level; see `lightningrl.sandbox.jail.run_calls`."""
    start = time.monotonic()
    fields = {"entry_point": entry_point, "calls": [codec.dumps(list(args)) for args in calls]}
    make = functools.partial(make_request, "calls", source, limits, **fields)

    def attempt(pool: JailPool | None) -> tuple[CallResults, bool]:
        with running(name, level, limits, make, pool) as run:
            run.advance(lambda: False)
            lines = [line for line in bytes(run.reply).split(b"\n")[1:-1] if line]
            results, is_complete, broken = _read_answers(lines, len(calls))
            status, detail = _status(run, is_complete, broken, limits)
            run.is_ordinary = status == "ok"
        is_lost = status == "crashed" and run.is_lost
        return CallResults(status, results, name, detail, time.monotonic() - start, is_lost), run.was_refused

    return rerun_alone_if_refused(attempt, pool)


def run_script_session(
    name: str, level: Level, source: str, stdin: str, limits: Limits, pool: JailPool | None = None
) -> ScriptResult:
    """Runs one program with one input at one level; see `lightningrl.sandbox.jail.run_script`."""
    start = time.monotonic()

    def make(jail: Jail) -> bytes:
        return make_request("script", source, limits, jail) + stdin.encode(errors="surrogatepass")

    def attempt(pool: JailPool | None) -> tuple[ScriptResult, bool]:
        with running(name, level, limits, make, pool) as run:
            run.advance(lambda: False)
            exit_code = run.ended.exit_code if run.ending == "exit" and run.ended is not None else None
            status, detail = describe_ending(run, limits) if exit_code is None else ("ok", "")
            run.is_ordinary = exit_code is not None and exit_code >= 0
        output = bytes(run.output[: limits.output_bytes]).decode(errors="replace")
        is_lost = status == "crashed" and run.is_lost
        seconds = time.monotonic() - start
        return ScriptResult(status, output, name, detail, seconds, is_lost, exit_code), run.was_refused

    return rerun_alone_if_refused(attempt, pool)


def rerun_alone_if_refused(attempt: Callable[[JailPool | None], tuple[Result, bool]], pool: JailPool | None) -> Result:
    """Returns the result in a jail of the pool or, if the program was refused there, in its own jail."""
    result, was_refused = attempt(pool)
    return attempt(None)[0] if was_refused and pool is not None else result


@contextlib.contextmanager
def running(
    name: str,
    level: Level,
    limits: Limits,
    make: Callable[[Jail], bytes],
    pool: JailPool | None = None,
    stays_open: bool = False,
) -> Iterator[ProgramRun]:
    """Yields a program that is about to begin in a jail (its line `ready` has arrived); `make` builds the request.

    Without a pool the jail is fresh and ends with the context. A jail of a pool may run other programs before and after
    this one: `seccomp.plain_filter` then restricts the program (see `ProgramRun.was_refused`), and the jail returns to
    the pool only if the program ended by itself, completed its request within the limits (`ProgramRun.is_ordinary`) or
    was refused, and left nothing behind. Raises SandboxUnavailable when the jail does not start; a used jail is first
    replaced.
    """
    jail = pool.take(name, limits) if pool is not None else None
    run = None
    try:
        while run is None:
            is_fresh, jail = jail is None, jail or Jail(name, level, limits)
            program_filter = b"" if pool is None else _plain_filter()
            run = ProgramRun(jail, make(jail), limits, program_filter=program_filter, stays_open=stays_open)
            if not run.begin():
                run.close()
                error_output = jail.end()
                if is_fresh:
                    raise _start_error(name, level, jail, error_output)
                run = jail = None
        yield run
    finally:
        if run is not None:
            run.close()
        if jail is not None and pool is not None and run is not None and run.leaves_clean:
            pool.put(jail)
        elif jail is not None:
            jail.end()


def make_request(mode: str, source: str, limits: Limits, jail: Jail, **more: Any) -> bytes:
    """Returns the server's first line with its newline."""
    rlimits = limits.rlimits() | jail.launch.rlimits
    uid = next_uid() if jail.launch.takes_uid else None
    request = {"mode": mode, "source": source, "limits": rlimits, "uid": uid, **more}
    return codec.dumps(request).encode("ascii") + b"\n"


def _start_error(name: str, level: Level, jail: Jail, error_output: str) -> SandboxUnavailable:
    """Returns the error for a jail that has ended without the line `ready`."""
    return SandboxUnavailable(
        f"the jail ({name}) did not start: {error_output or f'no answer within {START_LIMIT_S:.0f} s'} "
        f"(exit code {jail.exit_code}). {level.remedy[0].upper()}{level.remedy[1:]}."
    )


def describe_ending(run: ProgramRun, limits: Limits) -> tuple[JailStatus, str]:
    """Returns the status and a readable reason when a program ended before it had answered."""
    if run.ending == "output_limit":
        return "output_limit", f"printed more than {limits.output_bytes} bytes"
    if run.ending == "reply_limit":
        return "output_limit", f"answers of more than {limits.reply_bytes} bytes"
    if run.ending == "timeout":
        return "timeout", f"stopped after {limits.wall_s:g} s"
    return "crashed", "the process ended before it had answered every call"


def _status(run: ProgramRun, is_complete: bool, broken: ValueError | None, limits: Limits) -> tuple[JailStatus, str]:
    if run.ending in ("output_limit", "reply_limit"):
        return describe_ending(run, limits)
    if isinstance(broken, codec.TooLarge):
        return "output_limit", f"answers {broken}"
    if broken is not None:
        return "crashed", f"the reply channel carried something else: {str(broken)[:200]}"
    return ("ok", "") if is_complete else describe_ending(run, limits)


def _read_answers(lines: Sequence[bytes], n_calls: int) -> tuple[tuple[CallResult, ...], bool, ValueError | None]:
    """Returns the results in order, whether they are complete, and the error of the first invalid line."""
    results: list[CallResult] = []
    budget = codec.Budget()
    broken = None
    for line in lines:
        try:
            answer = codec.loads(line.decode("ascii"), budget)
            if not results and type(answer) is dict and set(answer) == {"load_error"}:
                error = CallResult(error="load_error", message=_text(answer["load_error"]))
                return (error,) * n_calls, True, None
            results.append(_read_call(answer, len(results), n_calls))
        except ValueError as error:  # CodecError and UnicodeDecodeError are ValueErrors
            broken = error
            break
    is_complete = len(results) == n_calls
    results += [CallResult(error="not_run")] * (n_calls - len(results))
    return tuple(results), is_complete, broken


def _read_call(answer: Any, number: int, n_calls: int) -> CallResult:
    if type(answer) is not dict or type(answer.get("call")) is not int or answer["call"] != number:
        raise codec.CodecError(f"expected the answer to call {number}")
    if number >= n_calls:
        raise codec.CodecError("more answers than calls")
    if set(answer) == {"call", "value"}:
        return CallResult(value=answer["value"])
    if set(answer) == {"call", "error", "message"} and answer["error"] in ("exception", "not_plain_data"):
        return CallResult(error=answer["error"], message=_text(answer["message"]))
    raise codec.CodecError("an answer of another form")


def _text(message: Any) -> str:
    if type(message) is not str:
        raise codec.CodecError("a message that is not text")
    return message[:200].encode("ascii", "backslashreplace").decode()
