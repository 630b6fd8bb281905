"""One judged answer as a line of the records, and the file in which lines gather until a threshold is complete.

The file grows by whole batches. Each line has a hash of its own (`utils.journal`): what a damaged line held is
decoded again. The final records are written elsewhere, all at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lightningrl.answering import Answer
from lightningrl.tokenization import decode_response, encode_texts
from lightningrl.types import EvalRecord
from lightningrl.utils import files, journal

Key = tuple[str, int]
"""(uid, sample): what identifies a record within a threshold."""


def to_records(policy: str, threshold: float, answers: Sequence[Answer], tokenizer: Any) -> list[EvalRecord]:
    """Returns the answers as records, in order."""
    emitted = [a.trajectory.token_ids[a.trajectory.reveal_step > 0] for a in answers]
    visible = encode_texts(tokenizer, [decode_response(tokenizer, ids) for ids in emitted])
    return [to_record(policy, threshold, a, len(ids)) for a, ids in zip(answers, visible, strict=True)]


def to_record(policy: str, threshold: float, answer: Answer, visible_tokens: int | None = None) -> EvalRecord:
    """Returns one answer as a record; `visible_tokens` is what `tpf_paper` counts."""
    trajectory = answer.trajectory
    by_step = np.bincount(trajectory.reveal_step, minlength=trajectory.stats.denoise_forwards + 1)[1:]
    verdict = {name: value for name, value in asdict(answer.verdict).items() if name != "seconds"}
    row: dict[str, Any] = {
        "policy": policy, "uid": trajectory.uid, "sample": trajectory.sample, "threshold": threshold,
        "prompt_sha256": files.sha256_text(" ".join(map(str, trajectory.prompt_ids.tolist()))),
        "response": answer.text, **verdict, **asdict(trajectory.stats), "stop": trajectory.stop,
        "tokens_by_step": by_step.tolist(), "visible_tokens": visible_tokens, "family": trajectory.family,
    }  # fmt: skip
    return EvalRecord.from_json({k: files.escape_surrogates(v) if isinstance(v, str) else v for k, v in row.items()})


class RecordFile:
    """Records by (uid, sample), and the engine's figures of each batch; what was appended survives any kind of end."""

    def __init__(self, path: Path, beside: Sequence[Path] = ()) -> None:
        """Reads the file, and those `beside` it that other processes write: equal batches hold equal records.

        Raises StageError when a file cannot be read.
        """
        self.path = path
        self.records: dict[Key, EvalRecord] = {}
        self.engine: dict[str, dict[str, Any]] = {}
        """The engine's figures by the batch's name."""
        self.damaged = 0
        """Lines that cannot be used."""
        for each in (*beside, path):
            try:
                data = each.read_bytes() if each.exists() else b""
            except OSError as error:
                raise files.disk_error(each, error) from error
            for line in data.splitlines():
                self._read(line)

    def append(self, records: Iterable[EvalRecord], batch: str, engine: dict[str, Any]) -> None:
        """Writes a batch to the disk; when it raises StageError (disk full), nothing was added."""
        records = list(records)
        rows = [{"record": record.to_json()} for record in records] + [{"batch": batch, "engine": engine}]
        data = "".join(journal.hashed_line(row) for row in rows).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab+", buffering=0) as file:
                # Versions of an evaluation that differ only in their sweep may gather here at the same time.
                with contextlib.suppress(OSError):  # a file system without locks does without
                    fcntl.flock(file, fcntl.LOCK_EX)
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 1))
                is_torn = file.read(1) not in (b"", b"\n")  # such an end stays behind as a damaged line of its own
                journal.append(file, b"\n" * is_torn + data, self.path)
        except OSError as error:
            raise files.disk_error(self.path, error) from error
        self.records |= {(record.uid, record.sample): record for record in records}
        self.engine[batch] = engine

    def _read(self, line: bytes) -> None:
        row = journal.hashed_row(line)
        if row is None:
            self.damaged += bool(line.strip())
        elif "record" in row:
            try:
                record = EvalRecord.from_json(row["record"])
            except TypeError:  # whole, but of a version with other fields
                self.damaged += 1
            else:
                self.records[record.uid, record.sample] = record
        else:
            self.engine[row["batch"]] = row["engine"]
