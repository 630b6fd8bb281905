"""A lease on a folder for one process at a time: a lock that the kernel drops when its holder dies in any way."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lightningrl.errors import Interrupted, StageError
from lightningrl.utils.files import try_lock
from lightningrl.utils.launch import launch_id

Wait = Callable[[Path, str], None]
"""Is called with the target and its holder again and again until the lease is free. It returns after a pause, or raises
to end the waiting."""

POLL_S = 0.5
REPORT_S = 60.0


@contextmanager
def lease(state: Path, name: str = "lease", target: Path | None = None, wait: Wait | None = None) -> Iterator[None]:
    """Holds `state/<name>` while the block runs; the folder `state` is created if it is missing.

    target: what is being made, for messages; by default the folder around `state`. wait: called while another process
    holds the lease; without it, StageError is raised at once and names the holder. After a kill there is nothing to
    clean up.
    """
    handle = _open_and_lock(state / name, target or state.parent, wait or _refuse)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n{launch_id()}".encode())
        yield
    finally:
        os.close(handle)


def patiently(report: Callable[[str], None], should_stop: Callable[[], bool] = lambda: False) -> Wait:
    """Returns a `Wait` that waits as long as it takes, and reports the holder at once and then every minute.

    It raises Interrupted as soon as `should_stop` says so.
    """
    reported: list[float] = []

    def wait(target: Path, holder: str) -> None:
        if should_stop():
            raise Interrupted(f"{target} is still being made by {holder}; run the same command again to keep waiting")
        if not reported or time.monotonic() - reported[-1] >= REPORT_S:
            report(f"waiting: {target} is being made by {holder}")
            reported.append(time.monotonic())
        time.sleep(POLL_S)

    return wait


def holder_of(path: Path) -> tuple[str, str] | None:
    """Returns who holds the lease file `path` and in which launch (`launch_id`), or None when nobody does."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        who, _, launch = os.pread(handle, 1000, 0).decode(errors="replace").partition("\n")
        return who or "another process", launch
    finally:
        os.close(handle)
    return None


def _refuse(target: Path, holder: str) -> None:
    raise StageError(f"{target} is being made by {holder}. Wait for it to end, or stop it; then run again.")


def _open_and_lock(path: Path, target: Path, wait: Wait) -> int:
    while True:
        try:
            handle, is_held = try_lock(path, os.O_RDWR)
        except StageError as error:
            cause = error.__cause__
            was_removed = isinstance(cause, FileNotFoundError) or (
                isinstance(cause, FileExistsError)  # mkdir says so, too, when the folder vanishes just then
                and (os.path.isdir(cause.filename) or not os.path.lexists(cause.filename))
            )
            if was_removed:
                continue  # the empty folder was removed in between (Snakemake does so at its end)
            raise
        if is_held:
            return handle
        os.close(handle)
        holder = holder_of(path)  # None: the last one has let it go or removed the folder between our open and our lock
        if holder is not None:
            wait(target, holder[0])
