"""Judges the responses of other engines: one record each, gathered in a file from which a killed run resumes. No torch.

Records gather in `<out>.partial`, batch by batch; when all are there, the caller writes the results and the file goes.
A line of it counts only if it is whole and belongs to the same response, judge and problems.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
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
    first, last = min(known), max(known)
    benchmark = first.rpartition("/")[0]
    named = ", ".join(map(repr, strange[:MAX_EXAMPLES])) + (", ..." if len(strange) > MAX_EXAMPLES else "")
    is_humaneval = benchmark.startswith("humaneval/") and any(uid.startswith("HumanEval/") for uid in strange)
    hint = " The authors' HumanEval/0 is humaneval/test/00000 here." if is_humaneval else ""
    count = sum(response.uid not in known for response in responses)
    raise BenchmarkError(
        f"{counted(count, 'response')} to other problems than the {counted(len(known), 'problem')} of {benchmark} that "
        f"are asked about: {named} (expected {first!r} to {last!r}).{hint} Give the --split, --data and --limit that "
        "the prompts were made with."
    )


def record_row(response: ExternalResponse, verdict: Verdict) -> dict[str, Any]:
    """Returns the fields of an `EvalRecord`, with None where the engine did not say."""
    row: dict[str, Any] = dict.fromkeys(field.name for field in fields(EvalRecord))
    row |= {"policy": response.policy, "threshold": response.threshold, "uid": response.uid, "sample": response.sample}
    row |= {"response": response.text, "tokens_by_step": []} | dict(response.facts)
    judged = {name: files.escape_surrogates(x) if isinstance(x, str) else x for name, x in asdict(verdict).items()}
    return row | {name: value for name, value in judged.items() if name in row}


def judge_all(
    responses: Sequence[ExternalResponse],
    examples: Sequence[Example],
    make_judge: Callable[[], Judge],
    out: Path,
    identity: Mapping[str, Any],
    finish: Callable[[list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
    """Returns the records of all responses, in their order; `finish` receives them before `<out>.partial` is deleted.

    identity: what the verdicts depend on beside the responses; records that gathered under another one do not count.
    Raises StageError when another process judges into the same file.
    """
    problems = {example.uid: example for example in examples}
    digests = [
        files.sha256_text(files.canonical_json([dict(identity), *each.key, each.text, each.facts]))
        for each in responses
    ]
    path = partial_path(out)
    with journal.open_locked(path) as file:
        file.seek(0)
        gathered = file.readall()
        if gathered and not gathered.endswith(b"\n"):  # a torn line stays behind as a damaged one of its own
            journal.append(file, b"\n", path)
        known = {row["of"]: row["record"] for line in gathered.splitlines() if (row := journal.hashed_row(line))}
        missing = [(digest, each) for digest, each in zip(digests, responses, strict=True) if digest not in known]
        if missing:
            judge = make_judge()
            try:
                for start in range(0, len(missing), BATCH):
                    batch = missing[start : start + BATCH]
                    verdicts = judge.judge([problems[each.uid] for _, each in batch], [each.text for _, each in batch])
                    rows = [
                        {"of": digest, "record": record_row(each, verdict)}
                        for (digest, each), verdict in zip(batch, verdicts, strict=True)
                    ]
                    journal.append(file, "".join(map(journal.hashed_line, rows)).encode(), path)
                    known |= {row["of"]: row["record"] for row in rows}
            finally:
                judge.close()
        records = [known[digest] for digest in digests]
        finish(records)  # another process cannot begin before the results are in their place
        path.unlink(missing_ok=True)
        return records


def partial_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")
