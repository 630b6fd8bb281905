"""Which jail level works on this machine: tried once per process by attacking it, not by looking at versions.

A level counts only if a program inside it fails at what it must not be able to do: read host files, reach a socket of
the host, see the environment, run as root, write outside its folder, fork without end, make a user namespace.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from typing import Any

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox.levels import LEVELS, Level, make_level
from lightningrl.sandbox.limits import Limits
from lightningrl.sandbox.session import run_session

_SOURCE = """
import os, socket

def reach(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False

def can_write(folder):
    try:
        open(folder + "/probe", "w").close()
        return True
    except OSError:
        return False

def fork_until_refused(limit):
    read_end, write_end = os.pipe()
    children = []
    try:
        while len(children) < limit:
            child = os.fork()
            if child == 0:
                os.close(write_end)
                os.read(read_end, 1)
                os._exit(0)
            children.append(child)
    except OSError:
        pass
    os.close(write_end)
    for child in children:
        os.waitpid(child, 0)
    return len(children)

def facts(port, host_files, limit):
    return {
        "uid": os.getuid(),
        "host_files": [path for path in host_files if os.path.exists(path)],
        "environment": sorted(os.environ),
        "network": reach(port),
        "outside": [folder for folder in ("/", "/dev", os.path.dirname(os.__file__)) if can_write(folder)],
        "forks": fork_until_refused(limit),
    }
"""
_HOST_FILES = ("/etc/passwd", "/proc/self/status", "/sys/kernel", "/bin/sh", "/home", __file__)
_FORK_LIMIT = 200
_VARIABLES = {"HOME", "LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PATH", "PWD", "PYTHONHASHSEED"}

_lock = threading.Lock()
_report: ProbeReport | None = None


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What was tried, and the best level that works.

    >>> ProbeReport("bwrap", (("bwrap", None),)).require()
    'bwrap'
    """

    level: str | None
    """The level in use; None when none works."""
    tried: tuple[tuple[str, str | None], ...]
    """Levels in the order tried, each with the reason why it was turned down (None: it works)."""

    def require(self) -> str:
        """The level's name. Raises SandboxUnavailable with every reason and remedy when no level works."""
        if self.level is not None:
            return self.level
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.tried)
        remedies = "; ".join(make_level(name).remedy for name, _ in self.tried)
        raise SandboxUnavailable(
            f"no jail level works on this machine ({reasons}). Model-written code is not run without one. "
            f"To mend it: {remedies}."
        )


def probe() -> ProbeReport:
    """The report for this machine and user; measured at the first call (about half a second), then remembered."""
    global _report
    with _lock:
        if _report is None:
            tried: list[tuple[str, str | None]] = []
            for name in LEVELS:
                reason = fault_of(name, make_level(name))
                tried.append((name, reason))
                if reason is None:
                    break
            _report = ProbeReport(tried[-1][0] if tried and tried[-1][1] is None else None, tuple(tried))
    return _report


def fault_of(name: str, level: Level) -> str | None:
    """Why a level is not to be used on this machine; None when it holds."""
    reason = level.missing()
    if reason is not None:
        return reason
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        try:
            results = run_session(name, level, _SOURCE, "facts", [(port, list(_HOST_FILES), _FORK_LIMIT)], Limits())
        except SandboxUnavailable as error:
            return str(error)
    answer = results.calls[0]
    if answer.error is not None:
        return f"the probe got no answer: {answer.error} {answer.message} {results.detail}".strip()
    return _leak(answer.value, Limits().processes)


def _leak(facts: dict[str, Any], max_processes: int) -> str | None:
    if facts["uid"] == 0:
        return "candidate code runs as root"
    if facts["host_files"]:
        return f"candidate code sees the host's {', '.join(facts['host_files'])}"
    if not set(facts["environment"]) <= _VARIABLES:
        return f"candidate code sees environment variables: {', '.join(facts['environment'])}"
    if facts["network"]:
        return "candidate code reaches the host's network"
    if facts["outside"]:
        return f"candidate code writes outside its folder, in {', '.join(facts['outside'])}"
    if facts["forks"] >= max_processes:
        return f"the limit of {max_processes} processes is not enforced ({facts['forks']} forks)"
    return None
