"""What the levels share in starting a server: uids, the environment, and the launcher's command.

`launcher_command` says what `launcher.py` is to do; its JSON has these keys.

    namespaces   new ones; with the folder a file system of its own in memory, and `hidden` covered by empty ones
    inside_uid   of the present user in a user namespace
    uid          to take, when the judge is root; null: stay who one is
    landlock     only `readable` (less `hidden`), four devices and the folder in memory; and the seccomp filters for it
    alone        the candidate's process may neither start another nor act on one
    folder       working folder, or null: none (the process stands in /)
    disk_bytes   size of the folder in memory
"""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

from lightningrl.sandbox.interpreter import Interpreter, find_interpreter, find_public_interpreter
from lightningrl.sandbox.limits import Limits

NOBODY = 65534
"""uid and gid in a user namespace."""
PYTHON_OPTIONS = ("-s", "-S", "-P", "-B")
"""With a cleared environment they isolate as -I does; -I itself would ignore PYTHONHASHSEED."""
_FIRST_UID, _UIDS = 61_184, 4_336
"""uids for jails made by root: systemd's range for passing services, owners of no file. Each jail has the next one,
since the process limit counts by uid: neither a neighbour's forks nor the host's daemons use up a jail's share."""
_JAILED_FILES = ("launcher.py", "confine.py", "seccomp.py", "server.py", "parent.py", "codec.py", "plain_types.py")
"""What runs there; the first starts the rest."""
_SPARE_TASKS = 256
"""For what a user's other processes start while a jail without a count of its own runs."""
_turn = itertools.count(int.from_bytes(os.urandom(4), "big"))


def next_uid() -> int:
    return _FIRST_UID + next(_turn) % _UIDS


def usable_interpreter() -> Interpreter:
    """For a jail that reads the host's files as the user it becomes. Raises SandboxUnavailable when there is none."""
    return find_public_interpreter() if os.getuid() == 0 else find_interpreter()


def environment(python: Interpreter, home: str) -> dict[str, str]:
    """All variables of a jail. The hash seed is fixed so that a program that depends on the order of a set gets the
    same verdict every time."""
    return {
        "HOME": home,
        "LANG": "C.UTF-8",
        "LD_LIBRARY_PATH": ":".join(sorted({os.path.dirname(path) for path in python.libraries})),
        "OMP_NUM_THREADS": "1",
        "PATH": "/nowhere",
        "PWD": home,
        "PYTHONHASHSEED": "0",
    }


def launcher_command(python: Interpreter, spec: str, home: str) -> tuple[str, ...]:
    """argv of the launcher in a cleared environment; `spec` is JSON, see the module."""
    variables = [f"{name}={value}" for name, value in environment(python, home).items()]
    launcher = str(Path(__file__).with_name(_JAILED_FILES[0]))
    env = shutil.which("env") or "/usr/bin/env"
    return (env, "-i", *variables, python.executable, *PYTHON_OPTIONS, launcher, spec)


def shared_process_limit(limits: Limits) -> dict[str, int]:
    """RLIMIT_NPROC where it counts a user's processes outside the jail too: those there are, and some to spare."""
    uid = os.getuid()
    return {} if uid == 0 else {"NPROC": _count_tasks(uid) + limits.processes + _SPARE_TASKS}


def _count_tasks(uid: int) -> int:
    count = 0
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                count += len(os.listdir(f"/proc/{entry.name}/task"))
        except OSError:
            continue  # it has ended
    return count
