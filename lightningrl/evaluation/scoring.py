"""Judges given responses: one record each, gathered in a file that a killed run goes on from. No torch.

Records gather in `<out>.partial`, batch by batch, and are moved into place when all are there. A line there counts only
if it is whole and of the same response, judge and problems; the first line says which. Not done here: decoding
(`sweep`), reading responses (`given`), statistics (`scored`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from lightningrl.errors import BenchmarkError, StageError
from lightningrl.evaluation.external import SHOWN, Given, counted, writable
from lightningrl.judges.protocol import Judge
from lightningrl.types import EvalRecord, Example, Verdict
from lightningrl.utils import files
from lightningrl.utils.journal import hashed_line, hashed_row

BATCH = 128
"""Responses judged between two writes: what a kill costs at most."""


def check_problems(responses: Sequence[Given], examples: Sequence[Example]) -> None:
    """Raises BenchmarkError when a response is to no problem of these."""
    known = {example.uid for example in examples}
    if not known:
        raise BenchmarkError("there are no problems to judge answers of; the data file is empty")
    strange = sorted({given.uid for given in responses} - known)
    if not strange:
        return
    count = sum(given.uid not in known for given in responses)
    verb = "names a problem that is" if count == 1 else "name problems that are"
    named = ", ".join(map(repr, strange[:SHOWN])) + (", ..." if len(strange) > SHOWN else "")
    first, last = min(known), max(known)
    benchmark = first.rpartition("/")[0]
    here = f"{counted(len(known), 'problem')} of {benchmark} that {'is' if len(known) == 1 else 'are'} asked about"
    is_humaneval = benchmark.startswith("humaneval/") and any(uid.startswith("HumanEval/") for uid in strange)
    hint = " The authors' HumanEval/0 is humaneval/test/00000 here." if is_humaneval else ""
    raise BenchmarkError(
        f"{counted(count, 'response')} {verb} not among the {here}: {named} (expected {first!r} to {last!r}).{hint} "
        "Give the --split, --data and --limit that the prompts were made with."
    )


def record_row(given: Given, verdict: Verdict) -> dict[str, Any]:
    """A line of the records: the fields of `EvalRecord`, None where the engine did not say."""
    row: dict[str, Any] = dict.fromkeys(field.name for field in fields(EvalRecord))
    row |= {"policy": given.policy, "threshold": given.threshold, "uid": given.uid, "sample": given.sample}
    row |= {"response": given.text, "tokens_by_step": []} | dict(given.known)
    return row | {
        "extracted": None if verdict.extracted is None else writable(verdict.extracted),
        "correct": verdict.correct,
        "value": verdict.value,
        "status": verdict.status,
        "detail": writable(verdict.detail),
        "compat": verdict.compat,
        "sandbox": verdict.sandbox,
    }


def judge_all(
    responses: Sequence[Given],
    examples: Sequence[Example],
    make_judge: Callable[[], Judge],
    out: Path,
    identity: Mapping[str, Any],
    finish: Callable[[list[dict[str, Any]]], None],
    advance: Callable[[int], None] = lambda judged: None,
) -> list[dict[str, Any]]:
    """Rows of all responses, in their order, out of `<out>.partial`; `finish` is given them before the file goes.

    identity: what the verdicts depend on but the responses; those of another one are not gone on from.
    advance: told how many more are judged. Raises StageError when another process judges into the same file.
    """
    problems = {example.uid: example for example in examples}
    with _Partial(out, identity) as partial:
        missing = [given for given in responses if given.digest not in partial.rows]
        advance(len(responses) - len(missing))
        judge = make_judge() if missing else None
        try:
            for start in range(0, len(missing), BATCH):
                batch = missing[start : start + BATCH]
                assert judge is not None
                verdicts = judge.judge([problems[given.uid] for given in batch], [given.text for given in batch])
                partial.append({g.digest: record_row(g, verdict) for g, verdict in zip(batch, verdicts, strict=True)})
                advance(len(batch))
        finally:
            if judge is not None:
                judge.close()
        rows = [partial.rows[given.digest] for given in responses]
        finish(rows)  # another process waits at the door until the results are in their place
        partial_path(out).unlink(missing_ok=True)
        return rows


def partial_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


class _Partial:
    """The gathering file: a first line with the identity, then {"of": digest, "record": row} a response."""

    def __init__(self, out: Path, identity: Mapping[str, Any]) -> None:
        self.path = partial_path(out)
        self.rows: dict[str, dict[str, Any]] = {}
        self._head = files.canonical_json({"identity": dict(identity)}).encode() + b"\n"

    def __enter__(self) -> _Partial:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab+", buffering=0)
        except OSError as error:
            raise files.disk_error(self.path, error) from error
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, rows: Mapping[str, dict[str, Any]]) -> None:
        """Onto the disk when this returns; nothing of it when it raises StageError (disk full)."""
        lines = [hashed_line({"of": digest, "record": row}) for digest, row in rows.items()]
        self._write("".join(lines).encode())
        self.rows |= rows

    def _write(self, data: bytes) -> None:
        before = os.fstat(self._file.fileno()).st_size
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), before)
            raise files.disk_error(self.path, error) from error

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = f"{self.path} is being written by another process. Wait for it, or name another --out."
            raise StageError(message) from None

    def _read(self) -> None:
        """Keep the whole lines behind the right first line; drop everything else."""
        self._file.seek(0)
        lines = self._file.readall().splitlines(keepends=True)
        kept = 0
        if lines and lines[0] == self._head:
            kept = len(lines[0])
            for line in lines[1:]:
                if not line.endswith(b"\n") or not self._take(line):
                    break
                kept += len(line)
        os.ftruncate(self._file.fileno(), kept)
        if kept == 0:
            self._write(self._head)

    def _take(self, line: bytes) -> bool:
        row = hashed_row(line)
        if row is None:
            return False
        self.rows[row["of"]] = row["record"]
        return True
