"""Files that are whole or absent: atomic writes, JSON lines, canonical JSON, hashes, locks. No torch."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lightningrl.errors import DamagedError, LightningRLError, StageError


def canonical_json(value: Any) -> str:
    """Returns JSON with sorted keys and no blanks, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def escape_surrogates(text: str) -> str:
    """Returns the text with lone surrogates, which no UTF-8 file can hold, written as escapes.

    >>> escape_surrogates("a\\ud800b")
    'a\\\\ud800b'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def fsync_dir(path: Path) -> None:
    """Makes renames inside `path` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces `path` atomically: temporary file in the same folder, fsync, rename, fsync of the folder.

    Raises StageError on a full disk or a read-only folder; the previous content of `path` stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_dir(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise disk_error(path, error) from error


def disk_error(path: Path, error: OSError) -> LightningRLError:
    """Returns the error that tells a user of an OSError met while writing `path`."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return StageError(f"cannot write {path}: {error.strerror or error}. Fix this, then run the same command again.")
    try:
        free = f"{shutil.disk_usage(next(p for p in path.absolute().parents if p.exists())).free / 1e6:.1f} MB free"
    except OSError:
        free = "quota reached"
    return StageError(
        f"cannot write {path}: no space left on the disk ({free}). Finished results are untouched; free some space and "
        "run the same command again to resume from the last saved state."
    )


def try_lock(path: Path, flags: int) -> tuple[int, bool]:
    """Opens a file, which it makes if need be, and locks it for this process until it is closed.

    Returns the descriptor and whether the lock is held. Not held: by another process, or the file was replaced or
    removed between open and lock. Raises StageError when the file cannot be opened, or the file system cannot lock.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, flags | os.O_CREAT, 0o666)
    except OSError as error:
        raise disk_error(path, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle, os.path.samestat(os.fstat(handle), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return handle, False
    except OSError as error:
        os.close(handle)
        raise StageError(f"cannot lock {path}: {error.strerror}. Put it on a disk that has locks.") from error


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON with sorted keys and a newline at the end."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _missing(path) from None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number too long, lists too deep
        raise DamagedError(f"{path} is damaged ({error}). {remedy(path)}") from error


def remedy(path: Path) -> str:
    """Returns what to do about a damaged file: a stage's folder, whose name ends in its key, can be made anew; what is
    a user's own is theirs to fix.

    >>> remedy(Path("results/nano/train/base-1f0ad6b2/summary.json")), remedy(Path("answers.jsonl"))
    ('Delete the folder results/nano/train/base-1f0ad6b2 and run again.', 'Fix it, or give another file.')
    """
    named = (each for each in path.parents if re.fullmatch(r".+-[0-9a-f]{8}", each.name))
    made = next((folder for folder in named if "results" in folder.parts), None)
    return "Fix it, or give another file." if made is None else f"Delete the folder {made} and run again."


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(canonical_json(row) + "\n" for row in rows))


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a complete JSONL file. Raises StageError when it is missing or a line is not JSON."""
    number = 0
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):  # noqa: B007 - named in the error
                yield json.loads(line)
    except FileNotFoundError:
        raise _missing(path) from None
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}, line {number} is damaged: {error}. {remedy(path)}") from error


def _missing(path: Path) -> StageError:
    return StageError(f"{path} is missing. Run the stage that makes it (snakemake does so by itself).")
