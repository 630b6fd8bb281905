"""The file of a harness's answers, which grows by each one, so that a run goes on where a kill has ended it.

Its first line says what the answers are to; a line that a kill has torn is dropped.
"""

from __future__ import annotations

import os
from collections import UserDict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from lightningrl.errors import ConfigError
from lightningrl.types import DecodeStats, Stop
from lightningrl.utils import files, journal


class Answer(NamedTuple):
    """The text of a response, not cut at a task's stop strings, and what it cost."""

    text: str
    stats: DecodeStats
    stop: Stop


def key_of(number: int, context: str, settings: Mapping[str, Any]) -> str:
    """Returns the key of the answer to a request: its number in the run, its prompt and its settings."""
    return f"{number}:{files.sha256_text(files.canonical_json([context, dict(settings)]))[:16]}"


class AnswerFile(UserDict[str, Answer]):
    """Answers by `key_of`; each is on the disk when it has been set.

    identity: what all answers depend on. Raises ConfigError when the file has answers of another identity, StageError
    when another process writes it or the disk cannot take it.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        super().__init__()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._file = path, journal.open_locked(path)
        try:
            self._read(dict(identity))
        except BaseException:
            self._file.close()
            raise

    def _read(self, identity: dict[str, Any]) -> None:
        whole, first = 0, None
        self._file.seek(0)
        for line in self._file.readlines():
            row = journal.hashed_row(line) if line.endswith(b"\n") else None
            if row is None:
                break
            if first is None:
                first = row
            else:
                self.data[row["key"]] = Answer(row["text"], DecodeStats(**row["stats"]), row["stop"])
            whole += len(line)
        if first is not None and (other := differing(first, identity)):
            raise ConfigError(
                f"{self.path} has answers by other {', '.join(other)}: delete it, or name another folder with --out"
            )
        os.ftruncate(self._file.fileno(), whole)
        if first is None:
            self._append(identity)

    def __setitem__(self, key: str, answer: Answer) -> None:
        self._append({"key": key, "text": answer.text, "stats": asdict(answer.stats), "stop": answer.stop})
        self.data[key] = answer

    def _append(self, row: dict[str, Any]) -> None:
        journal.append(self._file, journal.hashed_line(row).encode(), self.path)

    def close(self) -> None:
        self._file.close()


def differing(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Returns the keys of `expected` that `found` has otherwise or not at all.

    >>> differing({"code": "a", "more": 1}, {"code": "a", "weights": "b"})
    ['weights']
    """
    return [key for key, value in expected.items() if key not in found or found[key] != value]
