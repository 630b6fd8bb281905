"""Run a model-written function on given arguments where it can do no harm, and get plain data back.

    results = run_calls("def add(a, b): return a + b", "add", [(1, 2), (3, 4)])
    [call.value for call in results.calls]    # [3, 7]

This is the entry to `lightningrl.sandbox`: a batch of calls, a dialogue (call by call), or a script with its input.
Each runs in a fresh jail or, with a `JailPool`, in one that may have run other programs: the results are the same, for
a tenth of the cost. It compares nothing and knows no expected value: that is the task of the judge, in another process
than the candidate. tests/sandbox has the attacks it is tested against. It does not protect against flaws of the kernel,
and several processes of one jail may each use the memory limit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from lightningrl.sandbox.dialogue import Dialogue, LoadError, open_session
from lightningrl.sandbox.levels import Level, make_level
from lightningrl.sandbox.limits import CallResult, CallResults, Limits, ScriptResult
from lightningrl.sandbox.pool import JailPool
from lightningrl.sandbox.probe import ProbeReport, can_be_shared, probe, require
from lightningrl.sandbox.session import run_script_session, run_session

__all__ = [
    "CallResult", "CallResults", "Dialogue", "JailPool", "Limits", "ProbeReport", "ScriptResult", "open_dialogue",
    "probe", "run_calls", "run_script",
]  # fmt: skip

DEFAULT_LIMITS = Limits()


def run_calls(
    source: str,
    entry_point: str,
    calls: Sequence[Sequence[Any]],
    *,
    limits: Limits = DEFAULT_LIMITS,
    level: str | None = None,
    pool: JailPool | None = None,
) -> CallResults:
    """Loads `source` once in a jail and calls its `entry_point` with each of `calls` (positional arguments).

    `level` replaces the process's choice (`lightningrl.sandbox.probe`); it must hold here. The jails of `pool` are used
    if the level allows it. Thread-safe; an empty program takes about 30 ms, or 3 ms in a used jail of a pool. Raises
    SandboxUnavailable when no level works here or the jail cannot be started, CodecError (a ValueError) when an
    argument is not plain data. The results report whatever the program does; it is never raised.
    """
    name, jail = _level(level)
    if message := _too_long(source, limits):
        return CallResults("ok", (CallResult(error="load_error", message=message),) * len(calls), name, message, 0.0)
    return run_session(name, jail, source, entry_point, calls, limits, _usable(pool, name))


@contextlib.contextmanager
def open_dialogue(
    source: str,
    entry_point: str,
    *,
    limits: Limits = DEFAULT_LIMITS,
    level: str | None = None,
    pool: JailPool | None = None,
) -> Iterator[Dialogue]:
    """Loads `source` in a jail that answers one request after another within one wall clock. Raises as `run_calls`.

    Thread-safe: each dialogue has a jail to itself, which without a pool ends with the context. A program in a jail of
    a pool may need its own jail (`Dialogue.was_refused`): the caller then starts again without a pool.
    """
    name, jail = _level(level)
    if message := _too_long(source, limits):
        yield Dialogue(name, None, limits, LoadError(message, "MemoryError"))
        return
    with open_session(name, jail, source, entry_point, limits, _usable(pool, name)) as dialogue:
        yield dialogue


def run_script(
    source: str,
    stdin: str,
    *,
    limits: Limits = DEFAULT_LIMITS,
    level: str | None = None,
    pool: JailPool | None = None,
) -> ScriptResult:
    """Runs `source` as `__main__` in a jail with `stdin` as its input; its output to stderr is dropped.

    Thread-safe. Raises SandboxUnavailable as `run_calls`. The result reports whatever the program does.
    """
    name, jail = _level(level)
    if message := _too_long(source, limits):
        return ScriptResult("crashed", "", name, message, 0.0)
    return run_script_session(name, jail, source, stdin, limits, _usable(pool, name))


def _level(name: str | None) -> tuple[str, Level]:
    name = probe().require() if name is None else require(name)
    return name, make_level(name)


def _usable(pool: JailPool | None, name: str) -> JailPool | None:
    return pool if pool is not None and can_be_shared(name) else None


def _too_long(source: str, limits: Limits) -> str:
    source_bytes = len(source.encode(errors="surrogatepass"))
    if source_bytes <= limits.source_bytes:
        return ""
    return f"the program has {source_bytes} bytes, at most {limits.source_bytes} are run"
