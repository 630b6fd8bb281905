"""Whether one jail may run several programs on this machine: tried by attacks on the next program.

The filter for such programs (`seccomp.plain_filter`) must end each attack before it has an effect, the jail must be
clean afterwards, and the next, innocent program must run normally. A level for which this does not hold on this machine
uses one jail per program.
"""

from __future__ import annotations

import functools

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox.levels import Level
from lightningrl.sandbox.limits import Limits
from lightningrl.sandbox.pool import JailPool
from lightningrl.sandbox.session import make_request, running

ATTACKS = {
    "start a process": "import os\nos.fork()",
    "start a thread": "import threading\nthreading.Thread(target=print).start()",
    "leave a file": "open('left', 'w').close()",
    "leave a folder": "import os\nos.mkdir('left')",
    "change the mode of the work folder": "import os\nos.chmod('.', 0o700)",
    "make a socket": "import socket\nsocket.socket(socket.AF_UNIX)",
    "signal the first process": "import os\nos.kill(1, 23)",
    "limit the first process": "import resource\nresource.prlimit(1, resource.RLIMIT_CPU, (1, 1))",
    "slow the first process": "import os\nos.setpriority(os.PRIO_PROCESS, 1, 19)",
    "move the first process": "import os\nos.sched_setaffinity(1, os.sched_getaffinity(0))",
    "make a segment": "import ctypes\nctypes.CDLL(None).shmget(0, 4096, 0o1600)",
}
"""Maps the description of an attack to its program."""
_INNOCENT = "def f(): return __import__('os').listdir('.') or 'nothing is left'"


def measure_shared_fault(name: str, level: Level) -> str | None:
    """Returns why a jail of this level must not be used twice on this machine; None: it may be."""
    pool = JailPool(2 * len(ATTACKS) + 2)
    try:
        for what, attack in ATTACKS.items():
            if not _is_refused(name, level, pool, attack):
                return f"a program can {what}"
            if _is_refused(name, level, pool, _INNOCENT):
                return f"an innocent program is refused after one that tried to {what}"
        return None if pool.count_waiting(most_programs=2 * len(ATTACKS)) == 1 else "a jail is not clean afterwards"
    except SandboxUnavailable as error:
        return str(error)
    finally:
        pool.close()


def _is_refused(name: str, level: Level, pool: JailPool, source: str) -> bool:
    limits = Limits()
    make = functools.partial(make_request, "calls", source, limits, entry_point="f", calls=["[]"])
    with running(name, level, limits, make, pool) as run:
        run.advance(lambda: False)
        run.is_ordinary = run.ending == "exit" and b"nothing is left" in run.reply
    return run.was_refused
