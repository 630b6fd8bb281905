"""The level `landlock`: no namespace at all; Landlock for files, seccomp for everything else.

For machines that forbid user namespaces, such as the inside of many containers. The jail keeps the host's root, network
and process numbers, but can neither read, write, connect, signal nor start a process: one process with its threads, no
folder to write to, all sockets refused. An ordinary user's candidate runs with that user's uid, so that what
protects the user's files and processes is Landlock and the filters, not their owner.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator

from lightningrl.sandbox.levels import Guarantees, Launch
from lightningrl.sandbox.limits import Limits
from lightningrl.sandbox.start import launcher_command, next_uid, shared_process_limit, usable_interpreter
from lightningrl.sandbox.unshare import missing_from_kernel


class Landlock:
    """See the module; `lightningrl.sandbox.levels.Level`."""

    remedy = "use a kernel of 5.13 or newer with Landlock among its security modules (lsm=landlock,... at boot)"
    guarantees = Guarantees(hides_names=False, has_processes=False, work_folder=None, own_pids=False)

    def missing(self) -> str | None:
        return missing_from_kernel()

    @contextlib.contextmanager
    def launch(self, limits: Limits) -> Iterator[Launch]:
        python = usable_interpreter()
        spec = {
            "namespaces": False,
            "uid": next_uid() if os.getuid() == 0 else None,
            "landlock": True,
            "alone": True,
            "folder": None,
            "disk_bytes": limits.disk_bytes,
            "readable": (*python.folders, *python.libraries),
            "hidden": python.hidden,
        }
        command = launcher_command(python, json.dumps(spec), "/nowhere")
        yield Launch(command, (), rlimits=shared_process_limit(limits))


LEVEL = Landlock
