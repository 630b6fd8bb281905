"""The probe: which jail level works on this machine. It attacks each level once per process and reads no versions.

A level holds only if a program inside it fails at everything forbidden: reading host files or changing their modes,
reaching a socket of the host, seeing the environment, running as root, writing outside its folder, forking without end,
sending signals to the judge, creating a user namespace. Each level must keep its own guarantees (`levels.Level`).

A jail may be used again if the filter for its programs (`seccomp.plain_filter`) ends each attack on the next program
before it has an effect, the jail is clean afterwards, and the next, innocent program runs normally.

`choose` sets the level of the whole process, as configured; tools without a config read the environment variable
LIGHTNINGRL_SANDBOX. Without either, the best level that holds is used. `none` is never chosen automatically.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox.levels import LEVELS, NO_JAIL, Level
from lightningrl.sandbox.limits import Limits
from lightningrl.sandbox.process import JailPool
from lightningrl.sandbox.session import Place, call_lines, run_calls, running

AUTO = "auto"
VARIABLE = "LIGHTNINGRL_SANDBOX"

_ATTACK = """
import ctypes, os, signal, socket

def succeeds(attempt, *args):
    try:
        attempt(*args)
        return True
    except OSError:
        return False

def read(path):
    os.listdir(path) if os.path.isdir(path) else open(path, "rb").close()

def send(family, kind, address):
    with socket.socket(family, kind) as s:
        s.settimeout(1)
        if kind == socket.SOCK_DGRAM:
            s.sendto(b"probe", address)
        else:
            s.connect(address)

def write(folder):
    open(folder + "/lightningrl-probe", "w").close()
    os.remove(folder + "/lightningrl-probe")

def keep_mode(path):
    os.chmod(path, os.stat(path).st_mode & 0o7777)

def fork_until_refused(limit):
    children = []
    try:
        while len(children) < limit:
            children.append(os.fork() or signal.pause())
    except OSError:
        pass
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return len(children)

def facts(addresses, host_files, judge, limit, work_folder):
    libc = ctypes.CDLL(None)
    forks = fork_until_refused(limit)  # before ptrace: traced, this process would stop at its children's ends
    folders = {"/", "/dev", "/tmp", "/var/tmp", "/dev/shm", os.path.dirname(os.__file__)}
    folders |= {os.path.dirname(path) for path in host_files}
    here = os.path.realpath(work_folder) if work_folder else None
    elsewhere = [folder for folder in sorted(folders) if os.path.realpath(folder) != here]
    for address in addresses:
        succeeds(send, *address)
    rights = {
        "user namespaces": libc.unshare(0x10000000),
        "ptrace": libc.ptrace(0, 0, 0, 0),
        "mounts": libc.mount(b"x", b"/tmp", b"tmpfs", 0, 0),
    }
    return {
        "uid": os.getuid(),
        "names": [path for path in host_files if os.path.exists(path)],
        "readable": [path for path in host_files if succeeds(read, path)],
        "changed": [path for path in host_files if succeeds(keep_mode, path)],
        "environment": sorted(os.environ),
        "outside": [folder for folder in elsewhere if succeeds(write, folder)],
        "rights": [name for name, result in rights.items() if result != -1],
        "signals": succeeds(os.kill, judge, 0),
        "forks": forks,
    }
"""
_HOST_FILES = ("/etc/passwd", "/proc/self/status", "/sys/kernel", "/bin/sh", "/home", __file__)
_FORK_LIMIT = 200
_VARIABLES = {"HOME", "LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PATH", "PWD", "PYTHONHASHSEED"}

_ATTACKS_BETWEEN = {
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

_lock = threading.RLock()
_choice: str | None = None
_report: ProbeReport | None = None
_faults: dict[tuple[str, Callable[[Level], str | None]], str | None] = {}


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """The levels that were tried, and the level in use.

    >>> ProbeReport("bwrap", (("bwrap", None),)).require()
    'bwrap'
    """

    level: str | None
    """The level in use; None when none works."""
    tried: tuple[tuple[str, str | None], ...]
    """The levels in the order of the trials, each with the reason of its rejection (None: it works)."""

    def require(self) -> str:
        """Returns the level's name. Raises SandboxUnavailable with every reason and remedy when no level works."""
        if self.level is not None:
            return self.level
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.tried)
        remedies = "; ".join(f"{name}: {LEVELS[name].remedy}" for name, _ in self.tried)
        raise SandboxUnavailable(
            f"no jail level works on this machine ({reasons}). Model-written code is not run without one. "
            f"To fix it: {remedies}."
        )


class LevelReport(NamedTuple):
    """The state of one level on this machine, for `doctor`."""

    name: str
    reason: str | None
    """Why the level cannot be used; None: it holds."""
    remedy: str


def choose(level: str = AUTO, *, acknowledged: bool = False) -> None:
    """Sets the level of this process; `auto`: the environment's, else the best that holds. It runs nothing.

    Raises SandboxUnavailable for an unknown level, and for `none` unless its risk is acknowledged.
    """
    global _choice, _report
    if level not in (AUTO, *LEVELS):
        raise SandboxUnavailable(f"found the jail level {level!r}: expected one of {', '.join((AUTO, *LEVELS))}.")
    if level == NO_JAIL and not acknowledged:
        raise SandboxUnavailable(
            "the level `none` runs model-written code without a jail. It needs `sandbox.acknowledge` in the config; "
            "the environment variable alone cannot choose it."
        )
    with _lock:
        if level != _choice:
            _choice, _report = level, None


def probe() -> ProbeReport:
    """Returns the report for this machine, user and choice; the first call measures it (about half a second)."""
    global _report
    with _lock:
        if _report is None:
            requested = _requested_level()
            tried: list[tuple[str, str | None]] = []
            for name in _jails() if requested == AUTO else [requested]:
                tried.append((name, fault(name)))
                if tried[-1][1] is None:
                    break
            _report = ProbeReport(tried[-1][0] if tried[-1][1] is None else None, tuple(tried))
        return _report


def require(name: str) -> str:
    """Returns this level's name. Raises SandboxUnavailable with the reason and the remedy when it does not hold."""
    reason = fault(name)
    if reason is None:
        return name
    raise SandboxUnavailable(f"the jail level {name} does not hold here: {reason}. To fix it: {LEVELS[name].remedy}.")


def fault(name: str) -> str | None:
    """Returns why a level cannot be used on this machine; None: it holds."""
    return _measured(name, measure_fault)


def shared_fault(name: str) -> str | None:
    """Returns why a jail of the level may run only one program on this machine; None: it may run several."""
    return _measured(name, measure_shared_fault)


def survey() -> tuple[LevelReport, ...]:
    """Returns a report on every level that is a jail, which takes about a second."""
    return tuple(LevelReport(name, fault(name), LEVELS[name].remedy) for name in _jails())


def _measured(name: str, measure: Callable[[Level], str | None]) -> str | None:
    """Measures a level once."""
    with _lock:
        if (name, measure) not in _faults:
            _faults[name, measure] = measure(LEVELS[name])
        return _faults[name, measure]


def _jails() -> list[str]:
    return [name for name in LEVELS if name != NO_JAIL]


def _requested_level() -> str:
    """Returns the level of the config or, if the config does not name one, of the environment."""
    if _choice not in (None, AUTO):
        assert _choice is not None
        return _choice
    named = os.environ.get(VARIABLE, AUTO)
    if named not in (AUTO, *_jails()):
        jails = ", ".join((AUTO, *_jails()))
        raise SandboxUnavailable(f"found {VARIABLE}={named}: expected one of {jails}. Only a config can choose `none`.")
    return named


def measure_fault(level: Level) -> str | None:
    """Attacks a level and returns why it cannot be used on this machine; None: it holds."""
    if level.name == NO_JAIL:
        return None  # it guarantees nothing, as its acknowledgement says
    reason = level.missing()
    if reason is not None:
        return reason
    with _listening_sockets() as listeners:
        addresses = [(each.family.value, each.type.value, each.getsockname()) for each in listeners.values()]
        call = (addresses, list(_HOST_FILES), os.getpid(), _FORK_LIMIT, level.work_folder)
        try:
            results = run_calls(Place(level), _ATTACK, "facts", [call])
        except SandboxUnavailable as error:
            return str(error)
        ready, _, _ = select.select(list(listeners.values()), [], [], 0)
        contacted = [kind for kind, listener in listeners.items() if listener in ready]
    answer = results.calls[0]
    if answer.error is not None:
        return f"the probe got no answer: {answer.error} {answer.message} {results.detail}".strip()
    return find_leak(answer.value | {"contacted": contacted}, level)


def measure_shared_fault(level: Level) -> str | None:
    """Returns why a jail of this level must not be used twice on this machine; None: it may be."""
    if not level.own_pids:
        return "a program's processes could outlive it unseen"
    pool = JailPool(2 * len(_ATTACKS_BETWEEN) + 2)
    try:
        for what, attack in _ATTACKS_BETWEEN.items():
            if not _is_refused(level, pool, attack):
                return f"a program can {what}"
            if _is_refused(level, pool, _INNOCENT):
                return f"an innocent program is refused after one that tried to {what}"
        return None if pool.count_waiting() == 1 else "a jail is not clean afterwards"
    except SandboxUnavailable as error:
        return str(error)
    finally:
        pool.close()


def find_leak(facts: dict[str, Any], level: Level) -> str | None:
    """Returns what candidate code can do although the level forbids it; None: nothing."""
    words = {name: ", ".join(value) for name, value in facts.items() if isinstance(value, list)}
    most_forks = Limits().processes
    leaks = {
        "runs as root": facts["uid"] == 0,
        f"reads the host's {words['readable']}": facts["readable"],
        f"sees the host's {words['names']}": facts["names"] and level.hides_names,
        f"changes the mode of the host's {words['changed']}": facts["changed"],
        f"sees environment variables: {words['environment']}": set(facts["environment"]) - _VARIABLES,
        f"reaches the host's network ({words['contacted']})": facts["contacted"],
        f"writes outside its folder, in {words['outside']}": facts["outside"],
        f"may use {words['rights']}": facts["rights"],
        "may signal the judge": facts["signals"] and not level.own_pids,
        f"starts processes ({facts['forks']} forks)": facts["forks"] and not level.has_processes,
        f"starts {facts['forks']} processes, although {most_forks} are the limit": facts["forks"] >= most_forks,
    }
    return next((f"candidate code {leak}" for leak, is_open in leaks.items() if is_open), None)


def _is_refused(level: Level, pool: JailPool, source: str) -> bool:
    with running(Place(level, pool=pool), "calls", source, "f", call_lines([()])) as run:
        run.wait_for_end()
        run.is_ordinary = run.ending == "exit" and b"nothing is left" in run.reply
    return run.was_refused


@contextlib.contextmanager
def _listening_sockets() -> Iterator[dict[str, socket.socket]]:
    """Yields sockets of the host: TCP and UDP on the loopback, UNIX sockets with an abstract name and with a path."""
    with contextlib.ExitStack() as stack:
        # Not in /tmp, which a jail may cover with its own folder: a service's socket is elsewhere.
        place = "/var/tmp" if os.access("/var/tmp", os.W_OK | os.X_OK) else None
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lightningrl-", dir=place))
        os.chmod(folder, 0o755)
        path = os.path.join(folder, "socket")
        kinds = {
            "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, f"\0lightningrl-{os.getpid()}-{os.urandom(4).hex()}"),
            "path": (socket.AF_UNIX, socket.SOCK_STREAM, path),
        }
        listeners = {}
        for name, (family, kind, address) in kinds.items():
            listeners[name] = stack.enter_context(socket.socket(family, kind))
            listeners[name].bind(address)
            if kind == socket.SOCK_STREAM:
                listeners[name].listen()
        os.chmod(path, 0o777)
        yield listeners
