"""The launcher starts `server.py` in a jail of the kernel's own means: the levels `unshare`, `landlock` and `none`.

It runs as `python -s -S -P -B launcher.py SPEC`, leads its own session, and has the server's descriptors; SPEC is JSON,
see `lightningrl.sandbox.levels`. There are two processes: this one stays outside, adopts all orphans of the jail and
ends last; its child confines itself step by step and becomes the server. When the child ends, all processes that it
left are killed; when the judge ends, both end. The judge is never forked. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, _HERE)
import confine  # noqa: E402 - beside this file, which runs outside its package
import seccomp  # noqa: E402

_HIDDEN_BYTES = 4096


def main() -> None:
    spec = json.loads(sys.argv[1])
    serve = _load_server()
    confine.die_with_parent()
    confine.adopt_orphans()
    confine.write_file("/proc/self/oom_score_adj", "1000")  # the kernel ends the jail first when memory runs out
    try:
        if spec["namespaces"]:
            confine.enter_namespaces(is_root=spec["uid"] is not None)
        jail = os.fork()
        if jail == 0:
            _confine(spec)
    except OSError as error:
        os.write(2, f"{error.strerror or error}\n".encode())
        os._exit(1)
    if jail == 0:
        serve()
    else:
        os._exit(_supervise(jail))


def _load_server() -> Callable[[], None]:
    """Imports the server while files can be read; the jail has the modules in memory and no trace of the folder."""
    import codec  # noqa: F401 - the server imports these two
    import parent  # noqa: F401
    import server

    sys.path.remove(_HERE)
    sys.path_importer_cache.pop(_HERE, None)
    return server.main


def _confine(spec: dict[str, Any]) -> None:
    """Replaces the host's rights by the jail's, in an order in which each step is still allowed."""
    if spec["namespaces"]:
        confine.mount_memory(spec["folder"], spec["disk_bytes"], writable=True)
        for folder in spec["hidden"]:
            confine.mount_memory(folder, _HIDDEN_BYTES, writable=False)
    rules = _rules(spec) if spec["landlock"] else None
    os.chdir(spec["folder"] or "/")
    if spec["uid"] is not None:
        confine.become(spec["uid"])
    confine.give_up_privileges()
    confine.die_with_parent()
    if rules is not None:
        rules.enforce()
        confine.install_filter(seccomp.filter_program())
        confine.install_filter(seccomp.host_filter())
    if not spec["namespaces"]:  # with namespaces, the end of this process ends all others
        server, is_alone = os.getpid(), spec["alone"]
        os.register_at_fork(after_in_child=lambda: _become_candidate(server, is_alone))


def _rules(spec: dict[str, Any]) -> confine.LandlockRules:
    rules = confine.LandlockRules()
    for path in spec["readable"]:
        rules.allow(path, confine.READING, without=() if spec["namespaces"] else spec["hidden"])
    for path in ("/dev/random", "/dev/urandom"):
        rules.allow(path, confine.READING)
    for path in ("/dev/null", "/dev/zero"):
        rules.allow(path, confine.DEVICE)
    if spec["namespaces"]:
        rules.allow(spec["folder"], confine.EVERYTHING_BUT_PROGRAMS)
    return rules


def _become_candidate(server: int, is_alone: bool) -> None:
    """Confines the process that the server has just forked. It ends on errors, which Python would ignore here."""
    if os.getppid() != server:
        return  # a process that the candidate started
    try:
        confine.die_with_parent()
        if is_alone:
            confine.install_filter(seccomp.alone_filter(os.getpid()))
    except OSError as error:
        os.write(2, f"{error}\n".encode())
        os._exit(1)


def _supervise(jail: int) -> int:
    """Waits for the jail's end, kills the processes that it leaves, and returns its exit code."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            assert code is not None
            return code if code >= 0 else 128 - code
        if pid == jail:
            code = os.waitstatus_to_exitcode(status)
        if code is not None:
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                for child in file.read().split():
                    os.kill(int(child), 9)


if __name__ == "__main__":
    main()
