"""One process a folder: a lock that the kernel drops when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightningrl.errors import StageError
from lightningrl.io import disk_error


@contextmanager
def lease(state: Path, name: str = "lease", made: Path | None = None) -> Iterator[None]:
    """Hold `state/<name>` while the block runs; the state folder is made if it is missing.

    made: what the error says is being made; the folder around `state` if not given. Raises StageError at once, naming
    the holder, when another process has it. Nothing is left to clean up after a kill.
    """
    handle = _open_and_lock(state / name, made or state.parent)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        os.close(handle)


def _open_and_lock(path: Path, made: Path) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise disk_error(path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
            os.close(handle)
            raise StageError(
                f"{made} is being made by {holder}. Wait for it to end, or stop it; then run again."
            ) from None
        except OSError as error:
            os.close(handle)
            raise StageError(f"cannot lock {path}: {error.strerror}. Put results/ on a disk that has locks.") from error
        if _is_still(path, handle):
            return handle
        os.close(handle)  # its last holder removed the state folder between our open and our lock


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
