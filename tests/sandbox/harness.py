"""The checks on jails by name, and how they run a program. Standard library only."""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lightningrl.sandbox.jail import CallResults, Limits, run_calls

CHECKS: dict[str, Callable[[], None]] = {}
SHORT = Limits(wall_s=1.0)
_WITH_ERROR_NAMES = """
def name(attempt, *args):
    try:
        attempt(*args)
        return "succeeded"
    except BaseException as error:
        return type(error).__name__
"""


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


def value_of(source: str, *args: object, limits: Limits = SHORT) -> object:
    """What the program's `attack(*args)` returned; it must have returned."""
    results = run_calls(_WITH_ERROR_NAMES + source, "attack", [args], limits=limits)
    assert results.status == "ok" and results.calls[0].error is None, results
    return results.calls[0].value


def outcome_of(source: str, limits: Limits = SHORT) -> CallResults:
    return run_calls(source, "attack", [()], limits=limits)


@contextlib.contextmanager
def host_folder():
    """A folder that every user may read and write, outside any jail."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o777)
        yield Path(name)


def processes_of(limits: Limits) -> list[int]:
    """Host processes of jails with these limits, by the tmpfs size in bubblewrap's command line."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and b"\0%d\0" % limits.disk_bytes in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def orphaned_zombies() -> set[str]:
    """Dead processes of bubblewrap that nobody but the host's init could collect, by pid."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and b"(bwrap) Z 1 " in (entry / "stat").read_bytes():
                found.add(entry.name)
    return found


def wait_until_gone(limits: Limits) -> None:
    deadline = time.monotonic() + 3
    while processes_of(limits) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not processes_of(limits)


def own_limits(wall_s: float = 1.0) -> Limits:
    """Limits that no other jail on this machine has."""
    return Limits(wall_s=wall_s, disk_bytes=64 * 2**20 + 4096 * (os.getpid() + 100_000 * len(CHECKS)))
