"""Run a model-written function on given arguments where it can do no harm, and get plain data back.

    results = run_calls("def add(a, b): return a + b", "add", [(1, 2), (3, 4)])
    [call.value for call in results.calls]    # [3, 7]

This is the entry to `lightningrl.sandbox`: a batch of calls, a dialogue (call by call), or a script with its input.
Each runs in a fresh jail or, with a `JailPool`, in one that may have run other programs: the results are the same, for
a tenth of the cost. `level` replaces the process's choice (`lightningrl.sandbox.probe`) and must hold here; the jails
of `pool` are used if the level allows it. Everything is thread-safe, and raises SandboxUnavailable when no level works
here or the jail cannot be started. The results report whatever the program does; it is never raised.

It compares nothing and knows no expected value: that is the task of the judge, in another process than the candidate.
tests/sandbox has the attacks it is tested against. It does not protect against flaws of the kernel, and several
processes of one jail may each use the memory limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from lightningrl.sandbox import session
from lightningrl.sandbox.levels import LEVELS
from lightningrl.sandbox.limits import CallResults, Limits, ScriptResult
from lightningrl.sandbox.probe import probe, require, shared_fault
from lightningrl.sandbox.process import JailPool
from lightningrl.sandbox.session import Dialogue, Place

_LIMITS = Limits()


def run_calls(
    source: str, entry_point: str, calls: Sequence[Sequence[Any]], *, limits: Limits = _LIMITS,
    level: str | None = None, pool: JailPool | None = None,
) -> CallResults:  # fmt: skip
    """Loads `source` once in a jail and calls its `entry_point` with each of `calls` (positional arguments).

    An empty program takes about 30 ms, or 3 ms in a used jail of a pool. Raises CodecError (a ValueError) when an
    argument is not plain data.
    """
    return session.run_calls(_place(level, limits, pool), _of_bounded_length(source, limits), entry_point, calls)


def open_dialogue(
    source: str, entry_point: str, *, limits: Limits = _LIMITS, level: str | None = None, pool: JailPool | None = None
) -> AbstractContextManager[Dialogue]:
    """Loads `source` in a jail that answers one request after another within one wall clock.

    Each dialogue has a jail to itself, which without a pool ends with the context. A program in a jail of a pool may
    need its own jail (`Dialogue.was_refused`): the caller then starts again without a pool.
    """
    return session.open_dialogue(_place(level, limits, pool), _of_bounded_length(source, limits), entry_point)


def run_script(
    source: str, stdin: str, *, limits: Limits = _LIMITS, level: str | None = None, pool: JailPool | None = None
) -> ScriptResult:
    """Runs `source` as `__main__` in a jail with `stdin` as its input; its output to stderr is dropped."""
    place = _place(level, limits, pool)
    if message := _too_long(source, limits):
        return ScriptResult("crashed", place.level.name, message, is_lost=False, output="", exit_code=None)
    return session.run_script(place, source, stdin)


def _place(level: str | None, limits: Limits, pool: JailPool | None) -> Place:
    name = probe().require() if level is None else require(level)
    is_shared = pool is not None and shared_fault(name) is None
    return Place(LEVELS[name], limits, pool if is_shared else None)


def _of_bounded_length(source: str, limits: Limits) -> str:
    """Returns the program or, for one that is too long, another one that fails to load for this reason."""
    message = _too_long(source, limits)
    return f"raise MemoryError({message!r})" if message else source


def _too_long(source: str, limits: Limits) -> str:
    source_bytes = len(source.encode(errors="surrogatepass"))
    if source_bytes <= limits.source_bytes:
        return ""
    return f"the program has {source_bytes} bytes, at most {limits.source_bytes} are run"
