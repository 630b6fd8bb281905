"""The lock file: commit, sha256 and bytes of what was once fetched from the hub, which later fetches must find again.

Keys are `<dataset>/<file>` of data and `models/<model>/<file>` of checkpoints.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightningrl.errors import BenchmarkError
from lightningrl.utils import files

ENTRY = {"revision", "sha256", "bytes"}
"""What the lock says of a file."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[dict[str, Any]]:
    """The lock's entries, held alone; written back when the block changes them and does not raise.

    Raises BenchmarkError when the file is damaged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise files.disk_error(path, error) from error
    try:
        # The folder itself, so that no file is left beside the lock; a file system without locks does without.
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        entries = _entries(path)
        before = files.canonical_json(entries)
        yield entries
        if files.canonical_json(entries) != before:
            files.write_json(path, entries)
    finally:
        os.close(folder)


def is_transport_error(error: Exception) -> bool:
    """Whether the hub client's transport raised it (connection refused, cut off), whose errors are no OSErrors."""
    return type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3"))


def _entries(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(e, dict) and set(e) == ENTRY for e in found.values()):
        raise BenchmarkError(
            f"the lock {path} is damaged: expected {', '.join(sorted(ENTRY))} of each file. Restore it from version "
            "control, or delete this file: the next fetch from the hub writes it anew."
        )
    return found
