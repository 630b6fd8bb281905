"""The checks on jails by name, the level at which they run, and the host's state. Standard library only.

A check is a function that raises AssertionError when an attack has an effect; each is self-contained and leaves nothing
behind. It holds a level to its own guarantees: where levels differ, it asks `level()`.
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
from lightningrl.sandbox.levels import LEVELS, Level

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
_place: dict[str, Any] = {"level": "bwrap", "pool": None}
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


def level() -> Level:
    """Returns the level under test, with its guarantees."""
    return LEVELS[_place["level"]]


def run_calls(source: str, entry_point: str, calls: Sequence[Sequence[Any]], limits: Limits = LONG) -> CallResults:
    return jail.run_calls(source, entry_point, calls, limits=limits, **_place)


def run_script(source: str, stdin: str, limits: Limits = LONG) -> ScriptResult:
    return jail.run_script(source, stdin, limits=limits, **_place)


def outcome_of(source: str, limits: Limits = LONG, *args: object) -> CallResults:
    """Returns what became of the program's `attack(*args)`."""
    return run_calls(_WITH_ERROR_NAMES + source, "attack", [args], limits)


def value_of(source: str, *args: object, limits: Limits = LONG) -> Any:
    """Returns the value of the program's `attack(*args)`, which must return."""
    results = outcome_of(source, limits, *args)
    assert results.status == "ok" and results.calls[0].error is None, results
    return results.calls[0].value


def run_check(title: str, name: str, *, shared: bool = False) -> None:
    """Runs a check at a level; the host must be unchanged afterwards.

    With `shared` it runs in a jail of a pool that runs an innocent program before and after it, which must be judged
    correctly. Other jails on this machine may have the same users, and come and go: nothing new may stay.
    """
    before = host_state()
    _place.update(level=name, pool=JailPool() if shared else None)
    try:
        expect_an_honest_program_to_be_right()
        CHECKS[title]()
        expect_an_honest_program_to_be_right()
    finally:
        close_pool()
        _place["pool"] = None
    wait_until_gone()
    changes, deadline = _changes(before, host_state()), time.monotonic() + GONE_S
    while changes and time.monotonic() < deadline:
        time.sleep(0.05)
        now = _changes(before, host_state())
        changes = {key: changes[key] & now[key] for key in changes.keys() & now if changes[key] & now[key]}
    assert not changes, changes


def expect_an_honest_program_to_be_right() -> None:
    if _place["pool"] is not None:
        calls = run_calls(HONEST, "add", [(2, 3), (-1, 1)]).calls
        assert [call.value for call in calls] == [5, 0], calls


def close_pool() -> None:
    """Ends the waiting jails of the pool; the next program starts without one."""
    if _place["pool"] is not None:
        _place["pool"].close()
        _place["pool"] = JailPool()


@contextlib.contextmanager
def host_folder() -> Iterator[Path]:
    """A folder that every user may read and write, outside any jail."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        os.chmod(name, 0o777)
        yield Path(name)


def host_state() -> dict[str, set[Any]]:
    """Returns mounts, children and jails of this process, and files, sockets and segments of the jails' users."""
    return {
        "mounts": {Path("/proc/self/mountinfo").read_text()},
        "folders": {path for path in ("/box", "/jail") if os.path.exists(path)},
        "children": {*Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()},
        "jails": {*jail_processes()},
        "files": {entry.path for place in ("/tmp", "/var/tmp", "/dev/shm") for entry in _entries(place)},
        "sockets": {row[1] for kind in ("tcp", "udp") for row in _table(f"net/{kind}") if int(row[7]) in _JAIL_UIDS},
        "segments": {" ".join(row) for kind in ("shm", "sem", "msg") for row in _table(f"sysvipc/{kind}")},
    }


def _changes(before: dict[str, set[Any]], after: dict[str, set[Any]]) -> dict[str, set[Any]]:
    return {key: after[key] - before[key] for key in after if after[key] - before[key]}


def _entries(place: str) -> Iterator[os.DirEntry[str]]:
    for entry in os.scandir(place):
        with contextlib.suppress(FileNotFoundError):
            if entry.stat(follow_symlinks=False).st_uid in _JAIL_UIDS:
                yield entry


def _table(name: str) -> list[list[str]]:
    return [line.split() for line in Path(f"/proc/{name}").read_text().splitlines()[1:]]


def _processes() -> Iterator[tuple[int, Path, list[str]]]:
    """Yields the number, the folder in /proc, and the words of `stat` behind the name of every process."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                yield int(entry.name), entry, (entry / "stat").read_text().rpartition(")")[2].split()


def jail_processes() -> list[int]:
    """Returns the host processes of this process's jails, by the size of the folder in their command line."""
    found = []
    for pid, folder, _ in _processes():
        with contextlib.suppress(OSError):
            if b"%d" % MARK in (folder / "cmdline").read_bytes():
                found.append(pid)
    return found


def family_of(processes: Sequence[int]) -> set[int]:
    """Returns these processes, and all that have come from them."""
    parents, found = {pid: int(words[1]) for pid, _, words in _processes()}, set(processes)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def orphaned_zombies() -> set[int]:
    """Returns dead processes of jails that only the host's init could collect."""
    found = set()
    for pid, folder, (state, parent, *_) in _processes():
        with contextlib.suppress(OSError):
            if (state, parent) == ("Z", "1") and (
                "(bwrap)" in (folder / "stat").read_text() or folder.stat().st_uid in _JAIL_UIDS
            ):
                found.add(pid)
    return found


def wait_until_gone() -> None:
    close_pool()
    deadline = time.monotonic() + GONE_S
    while jail_processes() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not jail_processes()


@contextlib.contextmanager
def running(source: str) -> Iterator[threading.Thread]:
    """Runs a judgement beside the block, at whose end its jail is killed."""

    def judge() -> None:
        with contextlib.suppress(SandboxUnavailable):  # killed before it had begun
            outcome_of(source)

    thread = threading.Thread(target=judge)
    thread.start()
    try:
        yield thread
    finally:
        while thread.is_alive():  # a program that could not begin in a used jail begins in another one
            for pid in family_of(jail_processes()):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            thread.join(0.1)
