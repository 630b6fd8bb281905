"""Judges the responses of other engines: one record each, gathered in a file from which a killed run resumes. No torch.

Records gather in `<out>.partial`, batch by batch; when all are there, the caller writes the results and the file goes.
A line of it counts only if it is whole and belongs to the same response, judge and problems; the first line says which.
Not done here: decoding (`sweep`), reading responses and summarising verdicts (`external`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from lightningrl.errors import BenchmarkError
from lightningrl.evaluation.external import MAX_EXAMPLES, ExternalResponse, counted
from lightningrl.judges.protocol import Judge
from lightningrl.types import EvalRecord, Example, Verdict
from lightningrl.utils import files, journal

BATCH = 128
"""Responses judged between two writes: the most that a kill costs."""


def check_uids(responses: Sequence[ExternalResponse], examples: Sequence[Example]) -> None:
    """Raises BenchmarkError when a response names a problem that is not among `examples`."""
    known = {example.uid for example in examples}
    if not known:
        raise BenchmarkError("there are no problems to judge answers of; the data file is empty")
    strange = sorted({response.uid for response in responses} - known)
    if not strange:
        return
    count = sum(response.uid not in known for response in responses)
    verb = "names a problem that is" if count == 1 else "name problems that are"
    named = ", ".join(map(repr, strange[:MAX_EXAMPLES])) + (", ..." if len(strange) > MAX_EXAMPLES else "")
    first, last = min(known), max(known)
    benchmark = first.rpartition("/")[0]
    here = f"{counted(len(known), 'problem')} of {benchmark} that {'is' if len(known) == 1 else 'are'} asked about"
    is_humaneval = benchmark.startswith("humaneval/") and any(uid.startswith("HumanEval/") for uid in strange)
    hint = " The authors' HumanEval/0 is humaneval/test/00000 here." if is_humaneval else ""
    raise BenchmarkError(
        f"{counted(count, 'response')} {verb} not among the {here}: {named} (expected {first!r} to {last!r}).{hint} "
        "Give the --split, --data and --limit that the prompts were made with."
    )


def record_row(response: ExternalResponse, verdict: Verdict) -> dict[str, Any]:
    """Returns the fields of an `EvalRecord`, with None where the engine did not say."""
    row: dict[str, Any] = dict.fromkeys(field.name for field in fields(EvalRecord))
    row |= {"policy": response.policy, "threshold": response.threshold, "uid": response.uid, "sample": response.sample}
    row |= {"response": response.text, "tokens_by_step": []} | dict(response.facts)
    return row | {
        "extracted": None if verdict.extracted is None else files.escape_surrogates(verdict.extracted),
        "correct": verdict.correct,
        "value": verdict.value,
        "status": verdict.status,
        "detail": files.escape_surrogates(verdict.detail),
        "compat": verdict.compat,
        "sandbox": verdict.sandbox,
    }


def judge_all(
    responses: Sequence[ExternalResponse],
    examples: Sequence[Example],
    make_judge: Callable[[], Judge],
    out: Path,
    identity: Mapping[str, Any],
    finish: Callable[[list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
    """Returns the records of all responses, in their order; `finish` receives them before `<out>.partial` is deleted.

    identity: what the verdicts depend on beside the responses; records that gathered under another one are dropped.
    Raises StageError when another process judges into the same file.
    """
    problems = {example.uid: example for example in examples}
    with _Partial(out, identity) as partial:
        missing = [response for response in responses if response.digest not in partial.rows]
        if missing:
            judge = make_judge()
            try:
                for start in range(0, len(missing), BATCH):
                    batch = missing[start : start + BATCH]
                    verdicts = judge.judge([problems[each.uid] for each in batch], [each.text for each in batch])
                    pairs = zip(batch, verdicts, strict=True)
                    partial.append({each.digest: record_row(each, verdict) for each, verdict in pairs})
            finally:
                judge.close()
        rows = [partial.rows[response.digest] for response in responses]
        finish(rows)  # another process cannot begin before the results are in their place
        partial_path(out).unlink(missing_ok=True)
        return rows


def partial_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


class _Partial:
    """The gathering file: a first line with the identity, then {"of": digest, "record": row} for each response."""

    def __init__(self, out: Path, identity: Mapping[str, Any]) -> None:
        self.path = partial_path(out)
        self.rows: dict[str, dict[str, Any]] = {}
        self._head = files.canonical_json({"identity": dict(identity)}).encode() + b"\n"

    def __enter__(self) -> _Partial:
        self._file = journal.open_locked(self.path)
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, rows: Mapping[str, dict[str, Any]]) -> None:
        """Writes the rows to the disk; when it raises StageError (disk full), none of them is there."""
        lines = [journal.hashed_line({"of": digest, "record": row}) for digest, row in rows.items()]
        journal.append(self._file, "".join(lines).encode(), self.path)
        self.rows |= rows

    def _read(self) -> None:
        """Keeps the whole lines behind the right first line and drops everything else."""
        self._file.seek(0)
        lines = self._file.readall().splitlines(keepends=True)
        kept = 0
        if lines and lines[0] == self._head:
            kept = len(lines[0])
            for line in lines[1:]:
                row = journal.hashed_row(line) if line.endswith(b"\n") else None
                if row is None:
                    break
                self.rows[row["of"]] = row["record"]
                kept += len(line)
        os.ftruncate(self._file.fileno(), kept)
        if kept == 0:
            journal.append(self._file, self._head, self.path)
