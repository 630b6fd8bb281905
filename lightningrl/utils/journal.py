"""Files that grow line by line: each line with a hash of its own, each write whole or absent.

The hash tells a line that is whole from one that a kill or a bad disk has torn.
"""

from __future__ import annotations

import contextlib
import json
import os
from io import FileIO
from pathlib import Path
from typing import Any

from lightningrl.errors import StageError
from lightningrl.utils import files

DIGITS = 16


def hashed_line(row: dict[str, Any]) -> str:
    """Returns the row as canonical JSON behind the first digits of its hash, with a newline at the end.

    >>> hashed_row(hashed_line({"a": 1}).encode())
    {'a': 1}
    """
    text = files.canonical_json(row)
    return f"{files.sha256_text(text)[:DIGITS]} {text}\n"


def hashed_row(line: bytes) -> dict[str, Any] | None:
    """Returns the row of a line that `hashed_line` wrote, or None when the line is damaged."""
    try:
        digest, _, text = line.decode().rstrip("\n").partition(" ")
        return json.loads(text) if files.sha256_text(text)[:DIGITS] == digest else None
    except ValueError:
        return None


def open_locked(path: Path) -> FileIO:
    """Opens a file for reading and appending, and locks it for this process until it is closed.

    Raises StageError when another process has locked it, or when the file system cannot lock or open it.
    """
    handle, is_held = files.try_lock(path, os.O_RDWR | os.O_APPEND)
    if is_held:
        return os.fdopen(handle, "ab+", buffering=0)
    os.close(handle)
    raise StageError(f"{path} is being written by another process. Wait for it to end, or name another file.")


def append(file: FileIO, data: bytes, path: Path, *, sync: bool = True) -> None:
    """Appends `data` to an unbuffered file: all of it is there when this returns, and nothing of it when this raises.

    sync: whether the data must be on the disk before this returns. Raises StageError naming `path` when the disk
    cannot take the data.
    """
    before = os.fstat(file.fileno()).st_size
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
        if sync:
            os.fsync(file.fileno())
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.ftruncate(file.fileno(), before)
        if isinstance(error, OSError):
            raise files.disk_error(path, error) from error
        raise
