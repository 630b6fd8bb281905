"""One judged answer as a line of the records, and the file in which lines gather until a threshold is complete.

The file grows by whole batches. Each line has a hash of its own: what a kill or a bad disk has torn is told from what
is whole, dropped, and made again. Final records are written elsewhere, at once, when all lines are there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightningrl.answering import Answer
from lightningrl.tokenization import decode_response, encode_texts
from lightningrl.types import EvalRecord
from lightningrl.utils import files
from lightningrl.utils.journal import hashed_line, hashed_row

Key = tuple[str, int]
"""(uid, sample): what identifies a record within a threshold."""


def to_records(policy: str, threshold: float, answers: Sequence[Answer], tokenizer: Any) -> list[EvalRecord]:
    """Answers as records, in order."""
    emitted = [a.trajectory.token_ids[a.trajectory.reveal_step > 0] for a in answers]
    visible = encode_texts(tokenizer, [decode_response(tokenizer, ids) for ids in emitted])
    return [to_record(policy, threshold, a, len(ids)) for a, ids in zip(answers, visible, strict=True)]


def to_record(policy: str, threshold: float, answer: Answer, visible_tokens: int | None = None) -> EvalRecord:
    """One answer as a record; `visible_tokens` is what `tpf_paper` counts."""
    trajectory, stats, verdict = answer.trajectory, answer.trajectory.stats, answer.verdict
    by_step = np.bincount(trajectory.reveal_step, minlength=stats.denoise_forwards + 1)[1:]
    return EvalRecord(
        policy=policy,
        uid=trajectory.uid,
        sample=trajectory.sample,
        threshold=threshold,
        prompt_sha256=files.sha256_text(" ".join(map(str, trajectory.prompt_ids.tolist()))),
        response=writable(answer.text),
        extracted=None if verdict.extracted is None else writable(verdict.extracted),
        correct=verdict.correct,
        value=verdict.value,
        status=verdict.status,
        detail=writable(verdict.detail),
        response_tokens=stats.response_tokens,
        emitted_tokens=stats.emitted_tokens,
        denoise_forwards=stats.denoise_forwards,
        commit_forwards=stats.commit_forwards,
        prefill_forwards=stats.prefill_forwards,
        stop=trajectory.stop,
        tokens_by_step=by_step.tolist(),
        compat=verdict.compat,
        sandbox=verdict.sandbox,
        visible_tokens=visible_tokens,
    )


def writable(text: str) -> str:
    """The text with lone surrogates, which no file can hold, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


class RecordFile:
    """Records by (uid, sample), and one row of engine figures for each batch; what was appended survives any end.

    >>> import tempfile; path = Path(tempfile.mkdtemp()) / "threshold-0.9.jsonl"
    >>> RecordFile(path).append([], "0", {"forwards": 3})
    >>> RecordFile(path).engine
    {'0': {'forwards': 3}}
    """

    def __init__(self, path: Path, beside: Sequence[Path] = ()) -> None:
        """Reads what is there, and in the files `beside` it, which others write: equal batches hold equal records.

        Raises StageError when a file cannot be read.
        """
        self.path = path
        self.records: dict[Key, EvalRecord] = {}
        self.engine: dict[str, dict[str, Any]] = {}
        """Engine figures by batch name."""
        self.damaged = 0
        """Lines that were not what was written."""
        for each in (*beside, path):
            try:
                data = each.read_bytes() if each.exists() else b""
            except OSError as error:
                raise files.disk_error(each, error) from error
            for line in data.splitlines():
                self._read(line)

    def append(self, records: Iterable[EvalRecord], batch: str, engine: dict[str, Any]) -> None:
        """Add a batch: on the disk when this returns; StageError when the disk is full, and nothing is added."""
        records = list(records)
        rows = [{"record": record.to_json()} for record in records] + [{"batch": batch, "engine": engine}]
        data = "".join(hashed_line(row) for row in rows).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as file:
                # Versions of an evaluation that differ only in their sweep may gather here at the same time.
                with contextlib.suppress(OSError):  # a file system without locks does without
                    fcntl.flock(file, fcntl.LOCK_EX)
                before = file.seek(0, os.SEEK_END)
                try:
                    # A predecessor's torn last line stays behind as a damaged line of its own.
                    file.write(data if before == 0 or self._ends_whole() else b"\n" + data)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    with contextlib.suppress(OSError):
                        os.ftruncate(file.fileno(), before)
                    raise
        except OSError as error:
            raise files.disk_error(self.path, error) from error
        self.records |= {(record.uid, record.sample): record for record in records}
        self.engine[batch] = engine

    def _ends_whole(self) -> bool:
        with open(self.path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def _read(self, line: bytes) -> None:
        row = hashed_row(line)
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
