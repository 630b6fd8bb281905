"""The jail levels, best first: how each starts the server, and what its jail guarantees; SECURITY.md compares them.

`bwrap` is bubblewrap with namespaces of all kinds and no host file but a read-only interpreter, the server and four
devices. For an ordinary user, bubblewrap creates a user namespace. For root, a user namespace would map the jail's uid
to the host's root, which the process limit does not bind. Therefore root's jail has none: the process of each program
takes its own uid and drops all capabilities, and the seccomp filter refuses new user namespaces.

The others use the kernel's own means; `launcher.py` makes the system calls. `unshare` has namespaces too, but the
host's root: Landlock hides the content of files and folders, and seccomp refuses what Landlock does not govern (modes,
times, sockets that are files). `landlock`, for machines that forbid user namespaces, has neither: Landlock protects
files, and seccomp lets the one process neither connect, send signals nor start another. An ordinary user's candidate
runs with that user's uid, so both protect the user's files and processes, not their ownership. `none` is no jail: its
verdicts can be trusted only as long as nobody attacks the judge.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightningrl.sandbox import seccomp
from lightningrl.sandbox.confine import NOBODY, landlock_version
from lightningrl.sandbox.interpreter import Interpreter, find_interpreter, find_public_interpreter
from lightningrl.sandbox.limits import Limits

NO_JAIL = "none"
_HERE = Path(__file__).parent
_PYTHON_OPTIONS = ("-s", "-S", "-P", "-B")
"""With an empty environment these isolate as -I does, which itself would ignore PYTHONHASHSEED."""
_FIRST_UID, _UIDS = 61_184, 4_336
"""The uids for root's jails: systemd's range for transient services, which own no file. Each jail takes the next one:
the process limit counts by uid, so neither a neighbour's forks nor the host's daemons use up a jail's share."""
_SPARE_TASKS = 256
"""A reserve for what a user's other processes start while a jail without its own process count runs."""
_SERVER_FILES = ("server.py", "parent.py", "codec.py", "plain_types.py")
"""The files that run in the jail; the first one starts the others."""
_OLDEST_BWRAP = (0, 8)
_BOX = "/box"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_BECOME_FIRST_OOM_VICTIM = 'echo 1000 > /proc/self/oom_score_adj && exec "$0" "$@"'
_WORK_FOLDERS = ("/tmp", "/mnt", "/media", "/srv")
"""Every machine has one of them; inside the jail only, the folder in memory covers it."""
_turn = itertools.count(int.from_bytes(os.urandom(4), "big"))


@dataclass(frozen=True, slots=True)
class Launch:
    """The command that starts the server in a jail."""

    argv: tuple[str, ...]
    """The command, which must lead its own session; its descriptors 0, 1 and 2 become the server's."""
    fds: tuple[int, ...] = ()
    """Further descriptors that the command inherits; the level closes them after the launch."""
    takes_uid: bool = False
    """Whether the process of each program takes its own uid (and gid) before candidate code runs; False: the level has
    changed the uid of the whole jail."""
    rlimits: dict[str, int] = field(default_factory=dict)
    """Resource limits of this level that differ from `Limits.rlimits`."""


class Level:
    """One way to jail a process, and the guarantees in which levels differ (host files, rights, ... are of all)."""

    name: str
    hides_names: bool
    """Host files do not exist in the jail. False: their names, sizes and times can be read, their content cannot."""
    has_processes: bool
    """Candidate code may start a bounded number of processes. False: it may start threads only."""
    own_pids: bool
    """Processes of the host have no number in the jail. False: they are visible but cannot be affected."""
    work_folder: str | None
    """The only writable folder, bounded and in memory; None: there is none."""

    remedy: str
    """What to install or allow if the level does not work, in one sentence."""

    def missing(self) -> str | None:
        """Returns why the level cannot be tried at all (here: on this kernel); None: it can."""
        if landlock_version() < 1:
            return f"the kernel {os.uname().release} has no Landlock, or it is switched off; it came with 5.13"
        return seccomp.missing()

    def launch(self, limits: Limits) -> AbstractContextManager[Launch]:
        """Yields the command for one jail; its descriptors are open as long as the context."""
        raise NotImplementedError


class Bubblewrap(Level):
    name = "bwrap"
    hides_names, has_processes, own_pids, work_folder = True, True, True, _BOX

    @property
    def remedy(self) -> str:
        if self.missing():
            return "apt-get install bubblewrap (0.8 or newer; without root: conda install -c conda-forge bubblewrap)"
        return (
            "allow user namespaces: on Ubuntu 24.04 by loading the AppArmor profile bwrap-userns-restrict, in a "
            "container by its settings"
        )

    def missing(self) -> str | None:
        path = shutil.which("bwrap")
        if path is None:
            return "bwrap is not on the PATH"
        text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        if tuple(int(part) for part in re.findall(r"\d+", text)[:2]) < _OLDEST_BWRAP:
            return f"{path} is {text.strip() or 'of an unknown version'}; 0.8 or newer is needed"
        return seccomp.missing()

    @contextlib.contextmanager
    def launch(self, limits: Limits) -> Iterator[Launch]:
        path = shutil.which("bwrap")
        assert path is not None, "missing() was called before"
        filter_fd = os.memfd_create("seccomp")
        try:
            os.write(filter_fd, seccomp.filter_program())
            os.lseek(filter_fd, 0, os.SEEK_SET)
            python, is_root = find_interpreter(), os.getuid() == 0
            argv = ["/bin/sh", "-c", _BECOME_FIRST_OOM_VICTIM, os.path.abspath(path)]
            argv += [*self._isolation(python, is_root), "--seccomp", str(filter_fd), *self._mounts(python, limits)]
            argv += ["--", python.executable, *_PYTHON_OPTIONS, f"/jail/{_SERVER_FILES[0]}"]
            yield Launch(tuple(argv), (filter_fd,), takes_uid=is_root)
        finally:
            os.close(filter_fd)

    def _isolation(self, python: Interpreter, is_root: bool) -> list[str]:
        if is_root:
            words = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
            words += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        else:
            words = ["--unshare-all", "--unshare-user", "--disable-userns", "--uid", str(NOBODY), "--gid", str(NOBODY)]
        # The server's parent process is the first of the namespace, which no process inside can kill.
        words += ["--as-pid-1", "--hostname", "jail", "--new-session", "--die-with-parent", "--clearenv"]
        return words + [word for item in _environment(python, _BOX).items() for word in ("--setenv", *item)]

    def _mounts(self, python: Interpreter, limits: Limits) -> list[str]:
        binds = {path: path for path in python.files}
        binds |= {f"/jail/{name}": str(_HERE / name) for name in _SERVER_FILES}
        words = []
        # Parents are created first and readable by all: bubblewrap would copy the host's mode (/root: 0700).
        parents = {parent for path in (*binds, *_DEVICES) for parent in Path(path).parents if parent != Path("/")}
        for parent in sorted(parents):
            words += ["--perms", "0755", "--dir", str(parent)]
        for place, source in binds.items():
            words += ["--ro-bind", source, place]
        for folder in python.hidden:
            words += ["--perms", "0755", "--size", "4096", "--tmpfs", folder, "--remount-ro", folder]
        for device in _DEVICES:
            words += ["--dev-bind", device, device]
        words += ["--perms", "1777", "--size", str(limits.disk_bytes), "--tmpfs", _BOX]
        return [*words, "--symlink", _BOX, "/tmp", "--remount-ro", "/", "--chdir", _BOX]


class Unshare(Level):
    name = "unshare"
    hides_names, has_processes, own_pids, work_folder = False, True, True, "/tmp"
    remedy = (
        "allow user namespaces (sysctl user.max_user_namespaces; on Ubuntu 24.04 "
        "kernel.apparmor_restrict_unprivileged_userns=0; as root in a container CAP_SYS_ADMIN), on a kernel of 5.13 or "
        "newer with Landlock"
    )

    @contextlib.contextmanager
    def launch(self, limits: Limits) -> Iterator[Launch]:
        python = _usable_interpreter()
        free = (f for f in _WORK_FOLDERS if os.path.isdir(f) and not any(p.startswith(f"{f}/") for p in python.files))
        folder = next(free, "/tmp")
        yield Launch(_launcher_command(python, limits, folder, namespaces=True, folder=folder))


class Landlock(Level):
    name = "landlock"
    hides_names, has_processes, own_pids, work_folder = False, False, False, None
    remedy = "use a kernel of 5.13 or newer with Landlock among its security modules (lsm=landlock,... at boot)"

    @contextlib.contextmanager
    def launch(self, limits: Limits) -> Iterator[Launch]:
        command = _launcher_command(_usable_interpreter(), limits, "/nowhere", alone=True)
        yield Launch(command, rlimits=_shared_process_limit(limits))


class NoJail(Level):
    name = NO_JAIL
    hides_names, has_processes, own_pids, work_folder = False, True, False, None
    remedy = "set `sandbox.level: none` and its acknowledgement in the config, if nothing on this machine is of value"

    def missing(self) -> str | None:
        return None

    @contextlib.contextmanager
    def launch(self, limits: Limits) -> Iterator[Launch]:
        uid = _own_uid()
        with tempfile.TemporaryDirectory(prefix="lightningrl-", ignore_cleanup_errors=True) as folder:
            if uid is not None:
                os.chown(folder, uid, uid)
            command = _launcher_command(_usable_interpreter(), limits, folder, landlock=False, folder=folder, uid=uid)
            yield Launch(command, rlimits=_shared_process_limit(limits))


LEVELS: dict[str, Level] = {level.name: level for level in (Bubblewrap(), Unshare(), Landlock(), NoJail())}
"""Every level by its name. The probe tries them in this order, except `none`, which must be chosen explicitly."""


def next_uid() -> int:
    return _FIRST_UID + next(_turn) % _UIDS


def _own_uid() -> int | None:
    return next_uid() if os.getuid() == 0 else None


def _usable_interpreter() -> Interpreter:
    """Returns an interpreter that the jail's user may read. Raises SandboxUnavailable if there is none."""
    return find_public_interpreter() if os.getuid() == 0 else find_interpreter()


def _environment(python: Interpreter, home: str) -> dict[str, str]:
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


def _launcher_command(python: Interpreter, limits: Limits, home: str, **changes: Any) -> tuple[str, ...]:
    """Returns the launcher's argv with an empty environment; `changes` are those of its specification below."""
    spec = {
        # Create new ones; the folder is then a file system in memory, and empty ones cover `hidden`.
        "namespaces": False,
        # The uid to take if the judge is root; None: keep the uid (in new namespaces: be nobody).
        "uid": _own_uid(),
        # Allow only `readable` (except `hidden`), four devices and the folder; install the seccomp filters too.
        "landlock": True,
        # Forbid the candidate's process to start processes or act on others.
        "alone": False,
        # The working folder; None: none (the working directory is /).
        "folder": None,
        "disk_bytes": limits.disk_bytes,
        "readable": (*python.folders, *python.libraries),
        "hidden": python.hidden,
    }
    variables = [f"{name}={value}" for name, value in _environment(python, home).items()]
    command = (python.executable, *_PYTHON_OPTIONS, str(_HERE / "launcher.py"), json.dumps(spec | changes))
    return (shutil.which("env") or "/usr/bin/env", "-i", *variables, *command)


def _shared_process_limit(limits: Limits) -> dict[str, int]:
    """Returns an RLIMIT_NPROC for levels where the user's other processes count too: it adds them and a reserve."""
    uid, tasks = os.getuid(), 0
    if uid == 0:
        return {}
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):  # the process has ended
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                tasks += len(os.listdir(f"/proc/{entry.name}/task"))
    return {"NPROC": tasks + limits.processes + _SPARE_TASKS}
