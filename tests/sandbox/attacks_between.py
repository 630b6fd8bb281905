"""Attacks on the next program in the same jail (`between.toml`), each as the body of `attack()`.

Standard library only, like `containment.py`. What a plain program may do is judged as usual, and the next program looks
for traces. Everything else is tried twice: the filter must end it before it has an effect; without the filter, the jail
must be found unclean, or the attack must fail by itself.
"""

import functools
import os
import struct
import textwrap
import tomllib
from pathlib import Path
from typing import Any

from harness import HONEST

from lightningrl.sandbox import session
from lightningrl.sandbox.jail import JailPool, Limits, run_calls
from lightningrl.sandbox.levels import LEVELS
from lightningrl.sandbox.run import ProgramRun

ATTACKS = tomllib.loads(Path(__file__).with_name("between.toml").read_text())
LEAVES_NOTHING = {
    "stop the first process", "kill the first process", "interrupt the first process", "signal everyone",
    "leave a thread", "leave a socket by an abstract name", "lock a file", "watch the work folder",
    "leave a port in use", "mark the work folder", "leave a hidden file behind a descriptor",
}  # fmt: skip
"""These leave nothing after the program's process, except a port for a minute, which only the filter prevents: the
first process of a namespace gets no such signal from inside."""
_ALLOW_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
"""A filter that returns SECCOMP_RET_ALLOW."""
LOOK = """
import gc, mmap, os, resource, signal, sys
def depth(n=0):
    try: return depth(n + 1)
    except RecursionError: return n
def room():
    held = []  # pieces of a quarter of a MiB
    try:
        while True: held.append(mmap.mmap(-1, 2**18))
    except OSError: return len(held)
def mode(fd):
    try: return os.fstat(fd).st_mode
    except OSError: return None
def look():
    counts = gc.get_count()[1:], gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()
    stat = os.stat(".")
    return {
        "folder": (os.getcwd(), os.listdir("."), stat.st_mode, stat.st_uid == os.getuid(), stat.st_nlink),
        "limits": [resource.getrlimit(n) for n in range(16)], "umask": os.umask(0o22),
        "nice": [os.getpriority(os.PRIO_PROCESS, pid) for pid in (0, 1)],
        "affinity": [sorted(os.sched_getaffinity(pid)) for pid in (0, 1)],
        "scheduler": [os.sched_getscheduler(pid) for pid in (0, 1)],
        "signals": [str(signal.getsignal(n)) for n in range(1, 65)],
        "blocked": [sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())), sorted(signal.sigpending())],
        "timer": signal.getitimer(signal.ITIMER_REAL), "descriptors": [mode(fd) for fd in range(64)],
        "session": (os.getpgrp() == os.getpid() == os.getsid(0), os.getppid()),
        "environment": dict(os.environ), "modules": sorted(sys.modules), "path": sys.path, "argv": sys.argv,
        "hash": hash("a"), "recursion": (sys.getrecursionlimit(), depth()), "gc": counts,
        "digits": sys.get_int_max_str_digits(), "builtins": [len("abc"), sum([1, 1])], "room": room(),
    }
"""


def look(level: str, jails: JailPool | None = None) -> Any:
    """Returns everything that a plain program can see of its environment, except its process number."""
    results = run_calls(LOOK, "look", [()], level=level, pool=jails)
    assert results.status == "ok" and results.calls[0].error is None, results
    return results.calls[0].value


@functools.cache
def first_look(level: str) -> Any:
    """Returns what a program sees in its own jail."""
    return look(level)


def expect_nothing_new(level: str, jails: JailPool) -> None:
    """Checks that the next program sees what one in its own jail sees, and has as much memory.

    The memory of an interpreter varies by about a MiB between starts, with its addresses.
    """
    expected, found = first_look(level), look(level, jails)
    changes = {key: (expected[key], found[key]) for key in expected if expected[key] != found[key]}
    room = changes.pop("room", (0, 0))
    assert not changes and abs(room[0] - room[1]) <= 8, (changes, room)


def run_between(group: str, level: str) -> None:
    """Runs the attacks of a group of BETWEEN in a jail that runs other programs before and after each."""
    jails = JailPool()
    try:
        look(level, jails)
        for title, body in ATTACKS["allowed" if group == "allowed" else "refused"].items():
            try:
                BETWEEN[group](title, body, level, jails)
                expect_nothing_new(level, jails)
                assert run_calls(HONEST, "add", [(2, 3)], level=level, pool=jails).calls[0].value == 5
            except Exception as error:
                error.add_note(title)
                raise
    finally:
        jails.close()


def _judged(title: str, body: str, level: str, jails: JailPool) -> None:
    run_calls(_attack_of(body), "attack", [()], level=level, limits=Limits(wall_s=20), pool=jails)


def _is_refused(title: str, body: str, level: str, jails: JailPool) -> None:
    program = attempt(body, level, jails)
    assert program.was_refused and b"done" not in program.reply, (program.ended, program.reply)
    assert program.leaves_clean, program.ended


def _is_found(title: str, body: str, level: str, jails: JailPool) -> None:
    plain_filter = session._plain_filter
    session._plain_filter = lambda: _ALLOW_ALL  # type: ignore[assignment]
    try:
        program = attempt(body, level, jails)
    finally:
        session._plain_filter = plain_filter
    has_failed = b'"error":"exception"' in program.reply
    # With bubblewrap as root the first process is another user's.
    is_harmless = title in LEAVES_NOTHING or (level == "bwrap" and os.getuid() == 0 and "the user's" in title)
    assert not program.leaves_clean or has_failed or is_harmless, (program.ended, program.reply)


def attempt(body: str, level: str, jails: JailPool) -> ProgramRun:
    """Runs one attack in a jail of the pool, without a second run in its own jail."""
    place, call = session.Place(LEVELS[level], Limits(wall_s=20), jails), session.call_lines([()])
    with session.running(place, "calls", _attack_of(body), "attack", call) as program:
        program.wait_for_end()
        program.is_ordinary = program.ended is not None and program.ended.exit_code == 0
    return program


def _attack_of(body: str) -> str:
    return f"def attack():\n{textwrap.indent(body, '    ')}    return 'done'\n"


BETWEEN = {"allowed": _judged, "refused": _is_refused, "found without the filter": _is_found}
"""Maps a group of attacks to what tries one."""
