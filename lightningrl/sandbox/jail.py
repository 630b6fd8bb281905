"""Run a model-written function on given arguments where it can do no harm, and get plain data back.

    results = run_calls("def add(a, b): return a + b", "add", [(1, 2), (3, 4)])
    [call.value for call in results.calls]    # [3, 7]

The entry to `lightningrl.sandbox`: a batch of calls, a dialogue (call by call), or a script with its input. It compares
nothing and knows no expected value: that is the judge's part, in another process than the candidate. tests/sandbox
holds the attacks this is tested against. It does not protect against flaws of the kernel, and several processes of one
jail may each use the memory limit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from lightningrl.sandbox.dialogue import Dialogue, LoadError, open_session
from lightningrl.sandbox.levels import Level, make_level
from lightningrl.sandbox.limits import CallResult, CallResults, Limits, ScriptResult
from lightningrl.sandbox.probe import ProbeReport, probe, require
from lightningrl.sandbox.session import run_script_session, run_session

__all__ = [
    "CallResult", "CallResults", "Dialogue", "Limits", "ProbeReport", "ScriptResult", "open_dialogue", "probe",
    "run_calls", "run_script",
]  # fmt: skip

DEFAULT_LIMITS = Limits()


def run_calls(
    source: str,
    entry_point: str,
    calls: Sequence[Sequence[Any]],
    *,
    limits: Limits = DEFAULT_LIMITS,
    level: str | None = None,
) -> CallResults:
    """Load `source` once in a fresh jail and call its `entry_point` with each of `calls` (positional arguments).

    `level`: another jail level than the process's choice (`lightningrl.sandbox.probe`); it must hold here.
    Thread-safe; about 25 ms when the program does nothing. Raises SandboxUnavailable when no level works here or the
    jail cannot be started, CodecError (a ValueError) when an argument is not plain data. Whatever the program does is
    in the results, never raised.
    """
    name, jail = _level(level)
    if message := _too_long(source, limits):
        return CallResults("ok", (CallResult(error="load_error", message=message),) * len(calls), name, message, 0.0)
    return run_session(name, jail, source, entry_point, calls, limits)


@contextlib.contextmanager
def open_dialogue(
    source: str, entry_point: str, *, limits: Limits = DEFAULT_LIMITS, level: str | None = None
) -> Iterator[Dialogue]:
    """Load `source` in a fresh jail, to be asked one thing after another within one wall clock. Raises as `run_calls`.

    Thread-safe: each dialogue has a jail of its own, which ends with the context.
    """
    name, jail = _level(level)
    if message := _too_long(source, limits):
        yield Dialogue(name, None, limits, LoadError(message, "MemoryError"))
        return
    with open_session(name, jail, source, entry_point, limits) as dialogue:
        yield dialogue


def run_script(source: str, stdin: str, *, limits: Limits = DEFAULT_LIMITS, level: str | None = None) -> ScriptResult:
    """Run `source` as `__main__` in a fresh jail with `stdin` as its input; what it prints to stderr is dropped.

    Thread-safe. Raises SandboxUnavailable as `run_calls`. Whatever the program does is in the result.
    """
    name, jail = _level(level)
    if message := _too_long(source, limits):
        return ScriptResult("crashed", "", name, message, 0.0)
    return run_script_session(name, jail, source, stdin, limits)


def _level(asked: str | None) -> tuple[str, Level]:
    name = probe().require() if asked is None else require(asked)
    return name, make_level(name)


def _too_long(source: str, limits: Limits) -> str:
    source_bytes = len(source.encode(errors="surrogatepass"))
    if source_bytes <= limits.source_bytes:
        return ""
    return f"the program has {source_bytes} bytes, at most {limits.source_bytes} are run"
