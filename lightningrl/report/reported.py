"""Columns by a server's word: what it says of its tokens and forwards, beside the columns of what was counted here.

An engine from outside has no forwards that we counted, so its `tpf` and `aup` are empty. `tpf_reported` is the server's
completion tokens over the forwards that it tells, pooled over the records that have both (`reported_samples`).
`aup_reported` is the published area under that TPF. A server that is said to be `lossless` would give the same text
without drafts at one token a forward; so its curve begins at (1, its accuracy), as EAGLE-3's on the d3LLM leaderboard.

Shapes: R bootstrap replicates, T thresholds, N problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightningrl.evaluation.aup import aup, aup_replicates
from lightningrl.evaluation.intervals import triple, with_interval
from lightningrl.evaluation.metrics import ProblemSums, resampled_curves
from lightningrl.evaluation.reported import counts_of, is_lossless, is_reported, reported_sums
from lightningrl.types import EvalRecord

BY_THRESHOLD = (
    *triple("tpf_reported"), "response_tokens_reported_mean", "reported_accepted_mean", "reported_samples",
    "reported_doubted", "reported_lossless",
)  # fmt: skip
"""Columns of both tables. `response_tokens_reported_mean` and `reported_accepted_mean` (draft tokens accepted) are
over the records whose server told them, `reported_samples` counts those with tokens and forwards,
`reported_doubted` those whose server contradicted itself; `reported_lossless` is 1 where it is said to be."""
COLUMNS = (*BY_THRESHOLD, *triple("aup_reported"))
"""Columns of the headline."""


@dataclass(frozen=True, slots=True, eq=False)
class Reported:
    """A server's word on one benchmark, at every threshold."""

    records: Sequence[EvalRecord]
    sums: ProblemSums
    """With the server's tokens and forwards."""
    weights_RN: np.ndarray

    def at(self, t: int) -> dict[str, float]:
        """Returns the columns of a threshold that are known."""
        mine = [record for record in self.records if record.threshold == self.sums.thresholds[t]]
        told = [record.reported or {} for record in mine]
        row: dict[str, float] = {
            "reported_samples": sum(counts_of(record) is not None for record in mine),
            "reported_doubted": sum(bool(each.get("doubts")) for each in told),
            "reported_lossless": int(is_lossless(mine)),
        }
        means = {"response_tokens_reported_mean": "completion_tokens", "reported_accepted_mean": "accepted"}
        for column, name in means.items():
            if values := [each[name] for each in told if each.get(name) is not None]:
                row[column] = sum(values) / len(values)
        if self.sums.forwards_TN[t].sum() > 0:
            value_T, drawn_RT = self._tpf()
            row |= with_interval("tpf_reported", value_T[t], drawn_RT[:, t])
        return row

    def area(self, y_max: float) -> dict[str, float]:
        """Returns the columns of the AUP, where every threshold has a TPF."""
        if not (self.sums.forwards_TN.sum(1) > 0).all():
            return {}
        points = self.sums.points()
        tpf_RT, accuracy_RT = resampled_curves(self.sums.numbers(self.weights_RN) | {"tpf": self._tpf()})
        if is_lossless(self.records):
            points = from_one_token(points)
            tpf_RT = np.concatenate([np.ones_like(tpf_RT[:, :1]), tpf_RT], 1)
            accuracy_RT = np.concatenate([accuracy_RT[:, :1], accuracy_RT], 1)
        return with_interval("aup_reported", aup(points, y_max), aup_replicates(tpf_RT, accuracy_RT, y_max))

    def _tpf(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ratios as told [T] and drawn [R, T]; a draw that has no forward at all has the told one."""
        with np.errstate(invalid="ignore", divide="ignore"):
            value_T, drawn_RT = self.sums.numbers(self.weights_RN)["tpf"]
        return value_T, np.where(np.isfinite(drawn_RT), drawn_RT, value_T)


def from_one_token(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the curve (TPF, accuracy) of a lossless server, which begins where its text comes without drafts."""
    return [(1.0, points[0][1]), *points]


def reported(records: Sequence[EvalRecord], sums: ProblemSums, weights_RN: np.ndarray) -> Reported | None:
    """Returns a server's word, or None of an engine whose forwards were counted here. weights_RN: drawn problems."""
    return Reported(records, reported_sums(records, sums), weights_RN) if is_reported(records) else None
