"""The same answers by the paper's grader and the paper's count, and their part of the difference to the paper.

Two fields of a record follow the paper: `compat`, the verdict of the published grader's rules on the same extracted
answer, and `visible_tokens`, which over the forwards that revealed something are the published code's TPF
(`tpf_paper`). With them, a number measured here minus the published one is the sum of two parts: (ours - theirs on the
same answers), which is due to grader and counting, and (theirs on our answers - published), which is due to the model,
its training and everything else.

Where the published rules have no verdict (`compat` is None for single answers, as for programs with too long an output)
our own verdict counts, so that both accuracies are over all records; `compat_unknown` is their number. An evaluation
without any such verdict at some threshold has NaN instead, and so has one with a record without visible tokens.

Shapes: R bootstrap replicates, T thresholds, N problems, as in `evaluation.metrics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lightningrl.evaluation.aup import aup, aup_replicates
from lightningrl.evaluation.intervals import pooled_ratio, wilson_by_problem
from lightningrl.evaluation.metrics import ProblemSums
from lightningrl.report.columns import triple, with_interval
from lightningrl.types import EvalRecord

COMPAT = "compat_accuracy_pct"
COLUMNS = (
    *triple(COMPAT), "compat_unknown", *triple("tpf_paper"), *triple("aup_compat"), "y_max_compat",
    *triple("accuracy_pct_minus_compat"), *triple("tpf_minus_paper"), *triple("aup_minus_compat"),
)  # fmt: skip
"""The headline's columns of this module, at the primary threshold (AUP: over all thresholds). `aup_compat` is the area
under compat accuracy against `tpf_paper`, with the best compat accuracy of any policy as y_max. `_minus_` is ours minus
theirs on the same answers."""


@dataclass(frozen=True, slots=True, eq=False)
class PaperSums:
    """Per-problem sums of one (policy, benchmark) by the paper, aligned with its `ProblemSums`; None where unknown."""

    correct_TN: np.ndarray | None
    """Right answers by the published grader, or by ours where it has no verdict."""
    unknown_T: np.ndarray
    """Records on which it has no verdict."""
    tokens_TN: np.ndarray | None
    """Visible tokens."""
    forwards_TN: np.ndarray | None
    """Forwards that revealed something."""

    def accuracy_pct(self, sums: ProblemSums, t: int) -> float:
        """Returns the compat accuracy at threshold t, or NaN where it is not known."""
        if self.correct_TN is None:
            return float("nan")
        return float(100.0 * self.correct_TN[t].sum() / sums.samples_TN[t].sum())

    def tpf(self, t: int) -> float:
        """Returns the pooled `tpf_paper` at threshold t, or NaN where it is not known."""
        if self.tokens_TN is None or self.forwards_TN is None:
            return float("nan")
        return float(self.tokens_TN[t].sum() / self.forwards_TN[t].sum())

    def points(self, sums: ProblemSums) -> list[tuple[float, float]]:
        """Returns (tpf_paper, compat accuracy) of each threshold; empty where one is unknown or nothing is visible."""
        found = [(self.tpf(t), self.accuracy_pct(sums, t)) for t in range(len(sums.thresholds))]
        return found if all(tpf > 0 and not np.isnan(accuracy) for tpf, accuracy in found) else []


def paper_sums(records: Iterable[EvalRecord], sums: ProblemSums) -> PaperSums:
    """Returns the paper's sums over the records of `sums`."""
    row = {threshold: t for t, threshold in enumerate(sums.thresholds)}
    column = {uid: n for n, uid in enumerate(sums.uids)}
    shape = sums.samples_TN.shape
    correct_TN, tokens_TN, forwards_TN = (np.zeros(shape, np.int64) for _ in range(3))
    judged_T, unknown_T, counted = np.zeros(shape[0], np.int64), np.zeros(shape[0], np.int64), True
    for record in records:
        t, n = row[record.threshold], column[record.uid]
        known = record.compat is not None
        judged_T[t] += known
        unknown_T[t] += not known
        correct_TN[t, n] += record.compat if known else record.correct
        forwards = sum(count > 0 for count in record.tokens_by_step)
        if record.visible_tokens is None or forwards == 0:
            counted = False
            continue
        tokens_TN[t, n] += record.visible_tokens
        forwards_TN[t, n] += forwards
    return PaperSums(
        correct_TN if (judged_T > 0).all() else None,
        unknown_T,
        tokens_TN if counted else None,
        forwards_TN if counted else None,
    )


def best_accuracy(paper: Sequence[PaperSums], sums: Sequence[ProblemSums]) -> float:
    """Returns the y_max of `aup_compat`: the best compat accuracy of any policy and threshold, percent, or NaN."""
    points = (p for one, each in zip(paper, sums, strict=True) for p in one.points(each))
    return max((accuracy for _, accuracy in points), default=float("nan"))


def numbers(
    paper: PaperSums, sums: ProblemSums, primary: int, y_max: float, y_max_compat: float, weights_RN: np.ndarray
) -> dict[str, float]:
    """Returns `COLUMNS` of one (policy, benchmark). y_max: that of our own AUP; weights_RN: the drawn problems."""
    row = dict.fromkeys(COLUMNS, float("nan"))
    tpf_RT = pooled_ratio(sums.tokens_TN, sums.forwards_TN, weights_RN)
    accuracy_RT = 100.0 * pooled_ratio(sums.correct_TN, sums.samples_TN, weights_RN)
    compat_RT = paper_RT = None
    if paper.correct_TN is not None:
        value, samples_N = paper.accuracy_pct(sums, primary), sums.samples_TN[primary]
        compat_RT = 100.0 * pooled_ratio(paper.correct_TN, sums.samples_TN, weights_RN)
        interval = wilson_by_problem(paper.correct_TN[primary], samples_N)
        row |= dict(zip(triple(COMPAT), (value, *interval), strict=True))
        row["compat_unknown"] = int(paper.unknown_T[primary])
        ours = 100.0 * sums.correct_TN[primary].sum() / samples_N.sum()
        difference_R = (accuracy_RT - compat_RT)[:, primary]
        row |= with_interval("accuracy_pct_minus_compat", ours - value, difference_R)
    if paper.tokens_TN is not None and paper.forwards_TN is not None:
        paper_RT = pooled_ratio(paper.tokens_TN, paper.forwards_TN, weights_RN)
        row |= with_interval("tpf_paper", paper.tpf(primary), paper_RT[:, primary])
        ours = sums.tokens_TN[primary].sum() / sums.forwards_TN[primary].sum()
        row |= with_interval("tpf_minus_paper", ours - paper.tpf(primary), (tpf_RT - paper_RT)[:, primary])
    points = paper.points(sums)
    if points and compat_RT is not None and paper_RT is not None:
        value, area_R = aup(points, y_max_compat), aup_replicates(paper_RT, compat_RT, y_max_compat)
        row |= with_interval("aup_compat", value, area_R) | {"y_max_compat": y_max_compat}
        own_R = aup_replicates(tpf_RT, accuracy_RT, y_max)
        row |= with_interval("aup_minus_compat", aup(sums.points(), y_max) - value, own_R - area_R)
    return row
