"""The shared parts of starting a server at any level: uids, the environment, and the launcher's command.

The JSON specification of `launcher_command` for `launcher.py` has these keys.

    namespaces   create new ones; the folder is then a file system in memory, and empty ones cover `hidden`
    inside_uid   the uid of the present user in the user namespace
    uid          the uid to take if the judge is root; null: keep the uid
    landlock     allow only `readable` (except `hidden`), four devices and the folder; install the seccomp filters too
    alone        forbid the candidate's process to start processes or act on others
    folder       the working folder; null: none (the working directory is /)
    disk_bytes   the size of the folder in memory
"""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

from lightningrl.sandbox.interpreter import Interpreter, find_interpreter, find_public_interpreter
from lightningrl.sandbox.limits import Limits

NOBODY = 65534
"""The uid and gid in a user namespace."""
PYTHON_OPTIONS = ("-s", "-S", "-P", "-B")
"""With an empty environment these isolate as -I does, which itself would ignore PYTHONHASHSEED."""
_FIRST_UID, _UIDS = 61_184, 4_336
"""The uids for root's jails: systemd's range for transient services, which own no file. Each jail takes the next one:
the process limit counts by uid, so neither a neighbour's forks nor the host's daemons use up a jail's share."""
_JAILED_FILES = ("launcher.py", "confine.py", "seccomp.py", "server.py", "parent.py", "codec.py", "plain_types.py")
"""The files that run in the jail; the first one starts the others."""
_SPARE_TASKS = 256
"""A reserve for what a user's other processes start while a jail without its own process count runs."""
_turn = itertools.count(int.from_bytes(os.urandom(4), "big"))


def next_uid() -> int:
    return _FIRST_UID + next(_turn) % _UIDS


def usable_interpreter() -> Interpreter:
    """Returns an interpreter that the jail's user may read. Raises SandboxUnavailable if there is none."""
    return find_public_interpreter() if os.getuid() == 0 else find_interpreter()


def environment(python: Interpreter, home: str) -> dict[str, str]:
    """Returns all variables of a jail. The fixed hash seed gives a program that depends on the order of a set the same
    verdict every time."""
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
    """Returns the launcher's argv with an empty environment; `spec` is JSON, see the module."""
    variables = [f"{name}={value}" for name, value in environment(python, home).items()]
    launcher = str(Path(__file__).with_name(_JAILED_FILES[0]))
    env = shutil.which("env") or "/usr/bin/env"
    return (env, "-i", *variables, python.executable, *PYTHON_OPTIONS, launcher, spec)


def shared_process_limit(limits: Limits) -> dict[str, int]:
    """Returns an RLIMIT_NPROC for levels where the user's other processes count too: it adds them and a reserve."""
    uid = os.getuid()
    return {} if uid == 0 else {"NPROC": _count_tasks(uid) + limits.processes + _SPARE_TASKS}


def _count_tasks(uid: int) -> int:
    count = 0
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                count += len(os.listdir(f"/proc/{entry.name}/task"))
        except OSError:
            continue  # the process has ended
    return count
