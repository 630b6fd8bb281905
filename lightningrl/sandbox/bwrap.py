"""The level `bwrap`: bubblewrap with separate namespaces for users, processes, network, IPC and host name.

The jail sees a read-only interpreter at its usual path, the server, four devices and a bounded tmpfs, but no /proc, no
/sys and no host file. For an ordinary user, bubblewrap creates a user namespace. For root, a user namespace would map
the jail's uid to the host's root, which the process limit does not bind. Therefore root's jail has none: the process of
each program takes its own uid and drops all capabilities, and the seccomp filter refuses new user namespaces.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lightningrl.sandbox import seccomp
from lightningrl.sandbox.interpreter import find_interpreter
from lightningrl.sandbox.levels import Guarantees, Launch
from lightningrl.sandbox.limits import Limits
from lightningrl.sandbox.start import NOBODY, PYTHON_OPTIONS, environment

WORK_FOLDER = "/box"
_SERVER_FOLDER = "/jail"
_SERVER_FILES = ("server.py", "parent.py", "codec.py", "plain_types.py")
_OLDEST = (0, 8)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_BECOME_FIRST_OOM_VICTIM = 'echo 1000 > /proc/self/oom_score_adj && exec "$0" "$@"'


class Bubblewrap:
    """See the module and `lightningrl.sandbox.levels.Level`."""

    guarantees = Guarantees(hides_names=True, has_processes=True, work_folder=WORK_FOLDER, own_pids=True)

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
        if not seccomp.supported():
            return f"the seccomp filter knows x86_64 and aarch64, not {os.uname().machine}"
        text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        version = tuple(int(part) for part in re.findall(r"\d+", text)[:2])
        if version < _OLDEST:
            return f"{path} is {text.strip() or 'of an unknown version'}; 0.8 or newer is needed"
        return None

    @contextlib.contextmanager
    def launch(self, limits: Limits) -> Iterator[Launch]:
        filter_fd = os.memfd_create("seccomp")
        try:
            os.write(filter_fd, seccomp.filter_program())
            os.lseek(filter_fd, 0, os.SEEK_SET)
            is_root = os.getuid() == 0
            argv = ["/bin/sh", "-c", _BECOME_FIRST_OOM_VICTIM, _find_bwrap(), *_isolation(is_root)]
            argv += ["--seccomp", str(filter_fd), *_mounts(limits), *_server_command()]
            yield Launch(tuple(argv), (filter_fd,), takes_uid=is_root)
        finally:
            os.close(filter_fd)


def _find_bwrap() -> str:
    path = shutil.which("bwrap")
    assert path is not None, "missing() was called before"
    return os.path.abspath(path)


def _isolation(is_root: bool) -> list[str]:
    if is_root:
        namespaces = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        namespaces += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        namespaces = ["--unshare-all", "--unshare-user", "--disable-userns"]
        namespaces += ["--uid", str(NOBODY), "--gid", str(NOBODY)]
    variables = environment(find_interpreter(), WORK_FOLDER)
    variables = [word for item in variables.items() for word in ("--setenv", *item)]
    # The server's parent process is the first of the namespace, which no process inside can kill.
    namespaces += ["--as-pid-1", "--hostname", "jail", "--new-session", "--die-with-parent"]
    return [*namespaces, "--clearenv", *variables]


def _mounts(limits: Limits) -> list[str]:
    python = find_interpreter()
    binds = {path: path for path in (*python.folders, python.executable, *python.libraries)}
    here = Path(__file__).parent
    binds |= {f"{_SERVER_FOLDER}/{name}": str(here / name) for name in _SERVER_FILES}
    args = []
    # Parents are created first and readable by all: bubblewrap would copy the host's mode (/root: 0700).
    parents = {parent for path in (*binds, *_DEVICES) for parent in Path(path).parents if parent != Path("/")}
    for parent in sorted(parents):
        args += ["--perms", "0755", "--dir", str(parent)]
    for place, source in binds.items():
        args += ["--ro-bind", source, place]
    for folder in python.hidden:
        args += ["--perms", "0755", "--size", "4096", "--tmpfs", folder, "--remount-ro", folder]
    for device in _DEVICES:
        args += ["--dev-bind", device, device]
    args += ["--perms", "1777", "--size", str(limits.disk_bytes), "--tmpfs", WORK_FOLDER]
    args += ["--symlink", WORK_FOLDER, "/tmp", "--remount-ro", "/", "--chdir", WORK_FOLDER]
    return args


def _server_command() -> list[str]:
    return ["--", find_interpreter().executable, *PYTHON_OPTIONS, f"{_SERVER_FOLDER}/{_SERVER_FILES[0]}"]


LEVELS = {"bwrap": Bubblewrap}
