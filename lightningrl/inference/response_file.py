"""A JSON lines file of responses that grows by whole lines, and from which a run resumes after any kind of end.

A line that a kill has torn is dropped, and so are the lines of failed requests, which are tried again. One process at a
time writes the file: it is locked as long as it is open.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from lightningrl.errors import StageError
from lightningrl.utils import files, journal


def to_line(row: dict[str, Any]) -> bytes:
    """Returns the row as UTF-8 JSON without blanks, its keys in their order, and a newline at the end."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


class ResponseFile:
    """The file, which is locked and read when it is opened; nothing in it changes before `begin`.

    overwrite: whether to ignore what is there, and to delete it at `begin`. Raises StageError when another process
    writes the file, when it cannot be written, or when it has lines that are not responses.
    """

    def __init__(self, path: Path, *, overwrite: bool = False):
        self.path = path
        self.finished: dict[tuple[str, int], str] = {}
        """Hashes of the finished responses by (id, sample)."""
        self.written = 0
        """How many responses this process appended, without the failed ones."""
        if os.path.exists(path) and not os.path.isfile(path):
            raise StageError(f"{path} is no ordinary file; leave --out away to write to standard output")
        self._file = journal.open_locked(path)
        self._whole_bytes = 0
        """Bytes of whole lines found when the file was opened."""
        self._failed_lines: set[int] = set()
        if not overwrite:
            try:
                self._read()
            except BaseException:
                self._file.close()
                raise

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
                        self.finished[key] = row["hash"]
                except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                    raise StageError(
                        f"{self.path}, line {number + 1} is no response of `lightningrl generate`. Delete the line, "
                        "name another file, or give --overwrite to lose what is there."
                    ) from None
                self._whole_bytes += len(line)

    def begin(self) -> None:
        """Reduces the file to what the run resumes from: whole lines of finished responses, or nothing (overwrite)."""
        try:
            os.ftruncate(self._file.fileno(), self._whole_bytes)
            if self._failed_lines:
                self._drop_failed()
        except OSError as error:
            raise files.disk_error(self.path, error) from error

    def _drop_failed(self) -> None:
        """Replaces the file by one without them, which is locked and has the file's mode before it has any line."""
        path = self.path.resolve()  # a link stays one
        temporary = path.with_name(f".{path.name}.tmp")
        file = journal.open_locked(temporary)
        try:
            shutil.copymode(path, temporary)
            with open(path, "rb") as old, open(temporary, "wb") as new:
                new.writelines(line for number, line in enumerate(old) if number not in self._failed_lines)
            os.fsync(file.fileno())
            os.replace(temporary, path)
            files.fsync_dir(path.parent)
        except BaseException:
            file.close()
            temporary.unlink(missing_ok=True)
            raise
        self._file.close()
        self._file = file

    def append(self, row: dict[str, Any]) -> None:
        """Adds a line: whole when this returns, absent when it raises (StageError: disk full; or KeyboardInterrupt)."""
        journal.append(self._file, to_line(row), self.path, sync=False)
        self.written += "error" not in row

    def close(self) -> None:
        """Flushes the file to the disk and closes it. Raises StageError when the disk cannot take it."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise files.disk_error(self.path, error) from error
        finally:
            self._file.close()
