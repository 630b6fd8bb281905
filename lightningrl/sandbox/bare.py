"""The level `none`: no jail. Only with an acknowledgement in the config, and every record then says `none`.

The program can read and write what the user can, and reach the network. What is left is tidiness: a process tree of
its own that is ended as a whole, a wall clock, resource limits, a scratch folder that is removed, a cleared
environment, and as root another uid. The verdict is as hard to cheat as at the other levels only as long as nobody
attacks the judge.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator

from lightningrl.sandbox.levels import Guarantees, Launch
from lightningrl.sandbox.limits import Limits
from lightningrl.sandbox.start import launcher_command, next_uid, shared_process_limit, usable_interpreter


class Bare:
    """See the module; `lightningrl.sandbox.levels.Level`."""

    remedy = "set `sandbox.level: none` and its acknowledgement in the config, if nothing on this machine is of value"
    guarantees = Guarantees(hides_names=False, has_processes=True, work_folder=None, own_pids=False)

    def missing(self) -> str | None:
        return None

    @contextlib.contextmanager
    def launch(self, limits: Limits) -> Iterator[Launch]:
        python = usable_interpreter()
        uid = next_uid() if os.getuid() == 0 else None
        with tempfile.TemporaryDirectory(prefix="lightningrl-", ignore_cleanup_errors=True) as folder:
            if uid is not None:
                os.chown(folder, uid, uid)
            spec = {
                "namespaces": False,
                "uid": uid,
                "landlock": False,
                "alone": False,
                "folder": folder,
                "disk_bytes": limits.disk_bytes,
            }
            command = launcher_command(python, json.dumps(spec), folder)
            yield Launch(command, (), rlimits=shared_process_limit(limits))


LEVEL = Bare
