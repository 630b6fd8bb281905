"""The checks on jails by name, the level at which they run, and the host's state. Standard library only.

A check holds a level to its own guarantees: where levels differ, it calls `guarantees()`.
"""

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox import jail
from lightningrl.sandbox.jail import CallResults, JailPool, Limits, ScriptResult
from lightningrl.sandbox.levels import Guarantees, make_level

CHECKS: dict[str, Callable[[], None]] = {}
BY_THE_CLOCK: set[str] = set()
MARK = 60 * 2**20 + os.getpid() % 2**22
"""A size of the working folder that marks the jails of this process in their command lines."""
SHORT = Limits(wall_s=1.0, disk_bytes=MARK)
"""The limits for programs that the clock must stop."""
LONG = Limits(wall_s=120.0, disk_bytes=MARK)
"""The limits for programs that end by themselves, even on a busy machine."""
GONE_S = 120.0
"""The time for processes and files to disappear by themselves; it only ends hanging tests."""
HONEST = "def add(a, b):\n    return a + b\n"
_level = ["bwrap"]
_pool: list[JailPool | None] = [None]
_JAIL_UIDS = {65534, *range(61_184, 65_520)}
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


def by_the_clock(function: Callable[[], None]) -> Callable[[], None]:
    """Registers a check that waits for a time limit, whose clock is the same in all kinds of jails."""
    BY_THE_CLOCK.add(function.__name__)
    return check(function)


def guarantees() -> Guarantees:
    """Returns the guarantees of the level under test beyond those of all levels."""
    return make_level(_level[0]).guarantees


def run_calls(source: str, entry_point: str, calls: Sequence[Sequence[Any]], limits: Limits = LONG) -> CallResults:
    return jail.run_calls(source, entry_point, calls, limits=limits, level=_level[0], pool=_pool[0])


def run_script(source: str, stdin: str, limits: Limits = LONG) -> ScriptResult:
    return jail.run_script(source, stdin, limits=limits, level=_level[0], pool=_pool[0])


def run_check(title: str, level: str, *, shared: bool = False) -> None:
    """Runs a check at a level; the host must be unchanged afterwards.

    With `shared` it runs in a jail of a pool that runs an innocent program before and after it, which must be judged
    correctly. Other jails on this machine may have the same users, and come and go: nothing new may stay.
    """
    _level[0] = level
    before = host_state()
    _pool[0] = JailPool() if shared else None
    try:
        _expect_an_honest_program_to_be_right()
        CHECKS[title]()
        _expect_an_honest_program_to_be_right()
    finally:
        if shared:
            close_pool()
        _pool[0] = None
    wait_until_gone(SHORT)
    changes, deadline = _changes(before, host_state()), time.monotonic() + GONE_S
    while changes and time.monotonic() < deadline:
        time.sleep(0.05)
        changes = _still(changes, _changes(before, host_state()))
    assert not changes, changes


def _expect_an_honest_program_to_be_right() -> None:
    if _pool[0] is not None:
        calls = run_calls(HONEST, "add", [(2, 3), (-1, 1)]).calls
        assert [call.value for call in calls] == [5, 0], calls


def close_pool() -> None:
    """Ends the waiting jails of the pool; the next program starts without one."""
    if _pool[0] is not None:
        _pool[0].close()
        _pool[0] = JailPool()


def _changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Returns the new elements of sets, and the differences of other values."""
    changes = {}
    for key, now in after.items():
        if isinstance(now, set):
            if now - before[key]:
                changes[key] = now - before[key]
        elif now != before[key]:
            changes[key] = before[key], now
    return changes


def _still(earlier: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Returns the earlier changes that remain, since jails of other processes come and go."""
    same = {key: earlier[key] & now[key] if isinstance(now[key], set) else now[key] for key in earlier.keys() & now}
    return {key: change for key, change in same.items() if change}


def value_of(source: str, *args: object, limits: Limits = LONG) -> Any:
    """Returns the value of the program's `attack(*args)`, which must return."""
    results = run_calls(_WITH_ERROR_NAMES + source, "attack", [args], limits)
    assert results.status == "ok" and results.calls[0].error is None, results
    return results.calls[0].value


def outcome_of(source: str, limits: Limits = LONG) -> CallResults:
    return run_calls(_WITH_ERROR_NAMES + source, "attack", [()], limits)


@contextlib.contextmanager
def host_folder() -> Iterator[Path]:
    """A folder that every user may read and write, outside any jail."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        os.chmod(name, 0o777)
        yield Path(name)


def host_state() -> dict[str, object]:
    """Returns mounts, children and jails of this process, and files, sockets and segments of the jails' users."""
    own = f"/proc/self/task/{os.getpid()}/children"
    return {
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "children": Path(own).read_text().split(),
        "jails": processes_of(SHORT),
        "files": {entry.path for place in ("/tmp", "/var/tmp", "/dev/shm") for entry in _entries(place)},
        "sockets": {row[1] for kind in ("tcp", "udp") for row in _table(f"net/{kind}") if int(row[7]) in _JAIL_UIDS},
        "segments": [row for kind in ("shm", "sem", "msg") for row in _table(f"sysvipc/{kind}")],
    }


def _entries(place: str) -> Iterator[os.DirEntry[str]]:
    for entry in os.scandir(place):
        with contextlib.suppress(FileNotFoundError):
            if entry.stat(follow_symlinks=False).st_uid in _JAIL_UIDS:
                yield entry


def _table(name: str) -> list[list[str]]:
    return [line.split() for line in Path(f"/proc/{name}").read_text().splitlines()[1:]]


def processes_of(limits: Limits) -> list[int]:
    """Returns the host processes of jails with these limits, by the size of the folder in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and b"%d" % limits.disk_bytes in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def orphaned_zombies() -> set[str]:
    """Returns the pids of dead processes of jails that only the host's init could collect."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or b") Z 1 " not in (entry / "stat").read_bytes():
                continue
            uid = next(line for line in (entry / "status").read_text().splitlines() if line.startswith("Uid:"))
            if "(bwrap)" in (entry / "stat").read_text() or int(uid.split()[1]) in _JAIL_UIDS:
                found.add(entry.name)
    return found


def wait_until_gone(limits: Limits) -> None:
    close_pool()
    deadline = time.monotonic() + GONE_S
    while processes_of(limits) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not processes_of(limits)


@contextlib.contextmanager
def running(source: str, limits: Limits) -> Iterator[threading.Thread]:
    """Runs a judgement beside the block, at whose end its jail is killed."""

    def judge() -> None:
        with contextlib.suppress(SandboxUnavailable):  # killed before it had begun
            outcome_of(source, limits)

    thread = threading.Thread(target=judge)
    thread.start()
    try:
        yield thread
    finally:
        while thread.is_alive():  # a program that could not begin in a used jail begins in another one
            for pid in family_of(limits):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            thread.join(0.1)


def family_of(limits: Limits) -> set[int]:
    """Returns the host processes of jails with these limits, and all their descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = set(processes_of(limits))
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def own_limits(wall_s: float = LONG.wall_s) -> Limits:
    """Returns limits with another time that still mark the jails of this process."""
    return Limits(wall_s=wall_s, disk_bytes=MARK)
