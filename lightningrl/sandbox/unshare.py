"""The level `unshare`: namespaces of the kernel without bubblewrap, Landlock for files, seccomp for the rest.

For machines that allow user namespaces (or root) but have no bubblewrap. The jail has its own processes, network, IPC
and host name, and a bounded folder in memory. Its root is the host's: Landlock keeps the content of files and
folders from it, and what Landlock does not govern (modes, times, sockets that are files) seccomp refuses; names, sizes
and times of host files can still be asked for. It needs util-linux as little as anything else: `launcher.py` makes the
system calls.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator

from lightningrl.sandbox.confine import landlock_version
from lightningrl.sandbox.interpreter import Interpreter
from lightningrl.sandbox.levels import Guarantees, Launch
from lightningrl.sandbox.limits import Limits
from lightningrl.sandbox.seccomp import supported
from lightningrl.sandbox.start import NOBODY, launcher_command, next_uid, usable_interpreter

_WORK_FOLDERS = ("/tmp", "/mnt", "/media", "/srv")
"""There is one of them on every machine; covered by the folder in memory, inside the jail only."""


class Unshare:
    """See the module; `lightningrl.sandbox.levels.Level`."""

    remedy = (
        "allow user namespaces (sysctl user.max_user_namespaces; on Ubuntu 24.04 "
        "kernel.apparmor_restrict_unprivileged_userns=0; as root in a container CAP_SYS_ADMIN), on a kernel of 5.13 or "
        "newer with Landlock"
    )
    guarantees = Guarantees(hides_names=False, has_processes=True, work_folder="/tmp", own_pids=True)

    def missing(self) -> str | None:
        return missing_from_kernel()

    @contextlib.contextmanager
    def launch(self, limits: Limits) -> Iterator[Launch]:
        python = usable_interpreter()
        folder = _work_folder(python)
        spec = {
            "namespaces": True,
            "inside_uid": NOBODY,
            "uid": next_uid() if os.getuid() == 0 else None,
            "landlock": True,
            "alone": False,
            "folder": folder,
            "disk_bytes": limits.disk_bytes,
            "readable": (*python.folders, *python.libraries),
            "hidden": python.hidden,
        }
        yield Launch(launcher_command(python, json.dumps(spec), folder), ())


def missing_from_kernel() -> str | None:
    """Why neither this level nor `landlock` can be tried; None: worth a trial."""
    if not supported():
        return f"the seccomp filter knows x86_64 and aarch64, not {os.uname().machine}"
    if landlock_version() < 1:
        return f"the kernel {os.uname().release} has no Landlock, or it is switched off; it came with 5.13"
    return None


def _work_folder(python: Interpreter) -> str:
    needed = (python.executable, *python.folders, *python.libraries)
    for folder in _WORK_FOLDERS:
        if os.path.isdir(folder) and not any(path.startswith(folder + "/") for path in needed):
            return folder
    return "/tmp"


LEVEL = Unshare
