"""Run a model-written function on given arguments where it can do no harm, and get plain data back.

    results = run_calls("def add(a, b): return a + b", "add", [(1, 2), (3, 4)])
    [call.value for call in results.calls]    # [3, 7]

The entry to `lightningrl.sandbox`. It compares nothing and knows no expected value: that is the judge's part, in
another process than the candidate. tests/sandbox holds the attacks this is tested against. It does not
protect against flaws of the kernel, and several processes of one jail may each use the memory limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightningrl.sandbox.levels import make_level
from lightningrl.sandbox.limits import CallResult, CallResults, Limits
from lightningrl.sandbox.probe import ProbeReport, probe, require
from lightningrl.sandbox.session import run_session

__all__ = ["CallResult", "CallResults", "Limits", "ProbeReport", "probe", "run_calls"]

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
    level = probe().require() if level is None else require(level)
    source_bytes = len(source.encode(errors="surrogatepass"))
    if source_bytes > limits.source_bytes:
        message = f"the program has {source_bytes} bytes, at most {limits.source_bytes} are run"
        return CallResults("ok", (CallResult(error="load_error", message=message),) * len(calls), level, message, 0.0)
    return run_session(level, make_level(level), source, entry_point, calls, limits)
