"""Files of tensors whose sha256 is computed while they are written, so that no byte is read again for it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import IO, Any

import torch


class Sink:
    """The file that torch.save writes to: it hashes and counts what goes through, and keeps its first OSError, which
    torch's C++ writer would hide."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.error = file, None
        self.hash, self.bytes = hashlib.sha256(), 0

    def write(self, data: memoryview) -> int:
        if self.error is None:
            try:
                self.file.write(data)
                self.hash.update(data)
                self.bytes += len(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Does nothing: torch.save calls it often, and the file is flushed once at its end."""

    @property
    def record(self) -> dict[str, Any]:
        """What a manifest says of the file."""
        return {"bytes": self.bytes, "sha256": self.hash.hexdigest()}


def write_hashed(content: Any, path: Path) -> dict[str, Any]:
    """Streams the content to the disk, at most one tensor of a device copied at a time; returns bytes and sha256.

    Raises OSError, also when the disk is full.
    """
    with open(path, "wb") as file:
        sink = Sink(file)
        torch.save(content, sink)  # pyright: ignore[reportArgumentType] - wants an IO[bytes], uses write and flush
        if sink.error is not None:
            raise sink.error
        file.flush()
        os.fsync(file.fileno())
    return sink.record
