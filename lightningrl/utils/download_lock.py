"""The lock file: commit, sha256 and bytes of each file that was fetched from the hub; later fetches must find the same.

The keys are `<dataset>/<file>` for data and `models/<model>/<file>` for checkpoints.
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
"""The keys of each file's entry."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the lock's entries to one process at a time; changes are written back unless the block raises.

    Raises BenchmarkError when the file is damaged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise files.disk_error(path, error) from error
    try:
        # The folder itself is locked, so that no file is left behind; a file system without locks does without.
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
    """Returns whether the hub client's transport raised it (refused, cut off); such errors are no OSErrors."""
    return type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3"))


def _entries(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(e, dict) and set(e) == ENTRY for e in found.values()):
        raise BenchmarkError(
            f"the lock {path} is damaged: expected {', '.join(sorted(ENTRY))} of each file. Restore it from version "
            "control, or delete this file: the next fetch from the hub writes it again."
        )
    return found
