"""Numbers by a server's word: tokens, forwards and drafts of its answers. They are never mixed with ours.

A record's `reported` holds `completion_tokens`, `prompt_tokens`, `forwards`, `accepted`, `drafted` (None where the
server says nothing, or nothing that can be believed), the `doubts` why, the `model`'s name, whether it is `lossless`,
and `response_tokens_by`: whether a `tokenizer` counted the record's own `response_tokens` here, or they are unknown.
`tpf_reported` is completion tokens over forwards, a ratio of sums over the records that have both. No torch.

Shapes: N problems (sorted by uid), T thresholds (rising).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lightningrl.evaluation.metrics import ProblemSums
from lightningrl.types import EvalRecord

COUNTS = ("completion_tokens", "prompt_tokens", "forwards", "accepted", "drafted")


def is_reported(records: Iterable[EvalRecord]) -> bool:
    """Returns whether any of the records is a server's."""
    return any(record.reported is not None for record in records)


def counts_of(record: EvalRecord) -> tuple[int, int] | None:
    """Returns (completion tokens, forwards) where a server tells both."""
    told = record.reported or {}
    tokens, forwards = told.get("completion_tokens"), told.get("forwards")
    return None if tokens is None or forwards is None else (tokens, forwards)


def reported_sums(records: Iterable[EvalRecord], sums: ProblemSums) -> ProblemSums:
    """Returns the sums of `sums` with a server's tokens and forwards, of the records that have both."""
    row = {threshold: t for t, threshold in enumerate(sums.thresholds)}
    column = {uid: n for n, uid in enumerate(sums.uids)}
    tokens_TN, forwards_TN = np.zeros(sums.samples_TN.shape), np.zeros(sums.samples_TN.shape)
    for record in records:
        if (counts := counts_of(record)) is not None:
            t, n = row[record.threshold], column[record.uid]
            tokens_TN[t, n] += counts[0]
            forwards_TN[t, n] += counts[1]
    return ProblemSums(sums.uids, sums.thresholds, sums.samples_TN, sums.correct_TN, tokens_TN, forwards_TN)


def is_lossless(records: Iterable[EvalRecord]) -> bool:
    """Returns whether the server is said to decode speculatively without changing an answer (`endpoint.lossless`)."""
    return any((record.reported or {}).get("lossless") for record in records)


def summarise_reported(records: Sequence[EvalRecord]) -> dict[str, Any]:
    """Returns the sums and means of a server's word over the records of one threshold, None where it says nothing.

    `n_counted`: records with tokens and forwards, which `tpf_reported` is over; `doubted`: records whose server
    contradicts itself, by what is wrong, at most 5 of them shown; `no_answer`: requests without an answer.
    """
    told = [record.reported for record in records if record.reported is not None]
    found: dict[str, Any] = {"by": "the server's word", "no_answer": sum(r.status == "no_answer" for r in records)}
    for name in COUNTS:
        values = [row[name] for row in told if row.get(name) is not None]
        found[f"{name}_mean"] = sum(values) / len(values) if values else None
    counted = [counts for record in records if (counts := counts_of(record)) is not None]
    found["n_counted"] = len(counted)
    found["tpf_reported"] = sum(t for t, _ in counted) / sum(f for _, f in counted) if counted else None
    doubts = Counter(doubt for row in told for doubt in row.get("doubts", ()))
    found["doubted"] = sum(bool(row.get("doubts")) for row in told)
    found["doubts"] = [doubt for doubt, _ in doubts.most_common(5)]
    return found
