"""The levels that use the kernel's own means, without bubblewrap: `launcher.py` makes the system calls.

`unshare` is for machines that allow user namespaces (or root). The jail has its own processes, network, IPC and host
name, and a bounded folder in memory. Its root is the host's: Landlock hides the content of files and folders, and
seccomp refuses what Landlock does not govern (modes, times, sockets that are files). Names, sizes and times of host
files remain visible.

`landlock` is for machines that forbid user namespaces, such as the inside of many containers. It has no namespace:
Landlock protects files, seccomp everything else. The jail keeps the host's root, network and process numbers, but it
can neither read, write, connect, send signals nor start a process: it is one process with its threads, without a folder
to write to and without sockets. An ordinary user's candidate runs with that user's uid, so Landlock and the filters
protect the user's files and processes, not their ownership.

`none` is no jail. It needs an acknowledgement in the config, and every record names it. The program can read and write
what the user can, and reach the network. It still has its own process tree, which is ended as a whole, a wall clock,
resource limits, a temporary folder, an empty environment, and as root another uid. Its verdicts can be trusted only as
long as nobody attacks the judge.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from lightningrl.sandbox.confine import landlock_version
from lightningrl.sandbox.interpreter import Interpreter
from lightningrl.sandbox.levels import Guarantees, Launch
from lightningrl.sandbox.limits import Limits
from lightningrl.sandbox.seccomp import supported
from lightningrl.sandbox.start import NOBODY, launcher_command, next_uid, shared_process_limit, usable_interpreter

_WORK_FOLDERS = ("/tmp", "/mnt", "/media", "/srv")
"""Every machine has one of them; inside the jail only, the folder in memory covers it."""


class Unshare:
    """The level `unshare`: see the module and `lightningrl.sandbox.levels.Level`."""

    remedy = (
        "allow user namespaces (sysctl user.max_user_namespaces; on Ubuntu 24.04 "
        "kernel.apparmor_restrict_unprivileged_userns=0; as root in a container CAP_SYS_ADMIN), on a kernel of 5.13 or "
        "newer with Landlock"
    )
    guarantees = Guarantees(hides_names=False, has_processes=True, work_folder="/tmp", own_pids=True)

    def missing(self) -> str | None:
        return _missing_from_kernel()

    @contextlib.contextmanager
    def launch(self, limits: Limits) -> Iterator[Launch]:
        python = usable_interpreter()
        folder = _work_folder(python)
        spec = _spec(limits, python) | {"namespaces": True, "inside_uid": NOBODY, "folder": folder}
        yield Launch(launcher_command(python, json.dumps(spec), folder), ())


class Landlock:
    """The level `landlock`: see the module and `lightningrl.sandbox.levels.Level`."""

    remedy = "use a kernel of 5.13 or newer with Landlock among its security modules (lsm=landlock,... at boot)"
    guarantees = Guarantees(hides_names=False, has_processes=False, work_folder=None, own_pids=False)

    def missing(self) -> str | None:
        return _missing_from_kernel()

    @contextlib.contextmanager
    def launch(self, limits: Limits) -> Iterator[Launch]:
        python = usable_interpreter()
        command = launcher_command(python, json.dumps(_spec(limits, python) | {"alone": True}), "/nowhere")
        yield Launch(command, (), rlimits=shared_process_limit(limits))


class NoJail:
    """The level `none`: see the module and `lightningrl.sandbox.levels.Level`."""

    remedy = "set `sandbox.level: none` and its acknowledgement in the config, if nothing on this machine is of value"
    guarantees = Guarantees(hides_names=False, has_processes=True, work_folder=None, own_pids=False)

    def missing(self) -> str | None:
        return None

    @contextlib.contextmanager
    def launch(self, limits: Limits) -> Iterator[Launch]:
        python = usable_interpreter()
        with tempfile.TemporaryDirectory(prefix="lightningrl-", ignore_cleanup_errors=True) as folder:
            spec = _spec(limits, python) | {"landlock": False, "folder": folder}
            if spec["uid"] is not None:
                os.chown(folder, spec["uid"], spec["uid"])
            command = launcher_command(python, json.dumps(spec), folder)
            yield Launch(command, (), rlimits=shared_process_limit(limits))


LEVELS = {"unshare": Unshare, "landlock": Landlock, "none": NoJail}


def _spec(limits: Limits, python: Interpreter) -> dict[str, Any]:
    """Returns the specification of the level `landlock` but for `alone`; the others replace what differs."""
    return {
        "namespaces": False,
        "uid": next_uid() if os.getuid() == 0 else None,
        "landlock": True,
        "alone": False,
        "folder": None,
        "disk_bytes": limits.disk_bytes,
        "readable": (*python.folders, *python.libraries),
        "hidden": python.hidden,
    }


def _missing_from_kernel() -> str | None:
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
