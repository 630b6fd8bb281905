"""A JSONL file of responses that grows line by line, whole lines only, and is gone on with after any kind of end.

Reading what is there: a line that a kill has torn is dropped, and so are lines of failed requests, which are tried
again. One process at a time: the file is locked as long as it is open.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

from lightningrl.errors import StageError
from lightningrl.utils import files


def to_line(row: dict[str, Any]) -> bytes:
    """Keys in the row's order, UTF-8, no blanks, a newline at the end."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


class ResponseFile:
    """Opened, locked and read at once; nothing in it changes before `begin`.

    overwrite: what is there is not read, and goes at `begin`. Raises StageError: another process writes it, it cannot
    be written, it has lines that are not responses.
    """

    def __init__(self, path: Path, *, overwrite: bool = False):
        self.path = path
        self.done: dict[tuple[str, int], str] = {}
        """Finished responses: (id, sample) to hash."""
        self.written = 0
        """Responses appended by this process, failed ones not counted."""
        try:
            if path.exists() and not path.is_file():
                raise StageError(f"{path} is no ordinary file; leave --out away to write to standard output")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab+", buffering=0)
        except OSError as error:
            raise files.disk_error(path, error) from error
        self._lock()
        self._length = 0
        """Bytes in whole lines."""
        self._failed_lines: set[int] = set()
        if not overwrite:
            try:
                self._read()
            except BaseException:
                self._file.close()
                raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path)):
                return
        except BlockingIOError:
            pass
        except OSError as error:
            self._file.close()
            raise StageError(f"cannot lock {self.path}: {error.strerror}. Put it on a disk that has locks.") from error
        self._file.close()
        raise StageError(f"{self.path} is being written by another process. Wait for it to end, or name another file.")

    def _read(self) -> None:
        with open(self.path, "rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break
                try:
                    row = json.loads(line)
                    key = str(row["id"]), int(row["sample"])
                    if "error" in row:
                        self._failed_lines.add(number)
                    else:
                        self.done[key] = row["hash"]
                except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                    raise StageError(
                        f"{self.path}, line {number + 1} is no response of `lightningrl generate`. Delete the line, "
                        "name another file, or give --overwrite to lose what is there."
                    ) from None
                self._length += len(line)

    def begin(self) -> None:
        """Make the file what the run goes on from: whole lines of finished responses, or nothing (overwrite)."""
        try:
            os.ftruncate(self._file.fileno(), self._length)
            if self._failed_lines:
                self._drop_failed()
        except OSError as error:
            raise files.disk_error(self.path, error) from error

    def _drop_failed(self) -> None:
        path = self.path.resolve()  # a link stays one
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with open(self.path, "rb") as old, open(temporary, "wb") as new:
                new.writelines(line for number, line in enumerate(old) if number not in self._failed_lines)
                new.flush()
                os.fsync(new.fileno())
            file = open(temporary, "ab+", buffering=0)
            fcntl.flock(file, fcntl.LOCK_EX)
            shutil.copymode(path, temporary)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        self._file.close()
        self._file, self._length = file, os.fstat(file.fileno()).st_size

    def append(self, row: dict[str, Any]) -> None:
        """Add a line: whole when this returns, absent when it raises (StageError: disk full; or KeyboardInterrupt)."""
        line = memoryview(to_line(row))
        try:
            rest = line
            while rest:
                rest = rest[self._file.write(rest) :]
            self._length += len(line)
            self.written += "error" not in row
        except BaseException as error:
            os.ftruncate(self._file.fileno(), self._length)
            if isinstance(error, OSError):
                raise files.disk_error(self.path, error) from error
            raise

    def close(self) -> None:
        """Onto the disk. Raises StageError when it cannot take it."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise files.disk_error(self.path, error) from error
        finally:
            self._file.close()
