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

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lightningrl.evaluation.aup import Point, aup, aup_replicates
from lightningrl.evaluation.intervals import triple, wilson_by_problem, with_interval
from lightningrl.evaluation.metrics import ProblemSums, paper_counts, resampled_curves
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
class PaperSums(ProblemSums):
    """The sums of an evaluation by the paper: right answers by its grader, visible tokens, forwards that revealed
    something. They are NaN where the records do not tell them."""

    unknown_T: np.ndarray
    """Records on which the grader has no verdict."""

    def curve(self) -> list[Point]:
        """Returns the points of all thresholds; empty where one is unknown or nothing is visible."""
        points = self.points()
        return points if all(tpf > 0 and accuracy >= 0 for tpf, accuracy in points) else []


def paper_sums(records: Iterable[EvalRecord], sums: ProblemSums) -> PaperSums:
    """Returns the paper's sums over the records of `sums`."""
    row = {threshold: t for t, threshold in enumerate(sums.thresholds)}
    column = {uid: n for n, uid in enumerate(sums.uids)}
    correct_TN, tokens_TN, forwards_TN = (np.zeros(sums.samples_TN.shape) for _ in range(3))
    judged_T, unknown_T = (np.zeros(len(row), int) for _ in range(2))
    for record in records:
        t, n = row[record.threshold], column[record.uid]
        known = record.compat is not None
        judged_T[t] += known
        unknown_T[t] += not known
        correct_TN[t, n] += record.compat if known else record.correct
        tokens, forwards = paper_counts(record)
        tokens_TN[t, n] += np.nan if tokens is None or forwards == 0 else tokens
        forwards_TN[t, n] += forwards
    if (judged_T == 0).any():
        correct_TN[:] = np.nan
    if np.isnan(tokens_TN).any():
        tokens_TN[:] = forwards_TN[:] = np.nan
    return PaperSums(sums.uids, sums.thresholds, sums.samples_TN, correct_TN, tokens_TN, forwards_TN, unknown_T)


def numbers(
    paper: PaperSums, sums: ProblemSums, primary: int, y_max: float, y_max_compat: float, weights_RN: np.ndarray
) -> dict[str, float]:
    """Returns those of `COLUMNS` that are known. y_max: that of our own AUP; weights_RN: the drawn problems."""
    ours, theirs = sums.numbers(weights_RN), paper.numbers(weights_RN)
    row: dict[str, float] = {}
    for name, named, minus in (
        ("accuracy_pct", COMPAT, "accuracy_pct_minus_compat"),
        ("tpf", "tpf_paper", "tpf_minus_paper"),
    ):
        (our_T, our_RT), (their_T, their_RT) = ours[name], theirs[name]
        if not np.isnan(their_T[primary]):
            row |= with_interval(named, their_T[primary], their_RT[:, primary])
            row |= with_interval(minus, our_T[primary] - their_T[primary], (our_RT - their_RT)[:, primary])
    if COMPAT in row:
        low, high = wilson_by_problem(paper.correct_TN[primary], paper.samples_TN[primary])
        row |= {f"{COMPAT}_low": low, f"{COMPAT}_high": high, "compat_unknown": int(paper.unknown_T[primary])}
    if curve := paper.curve():
        value, area_R = aup(curve, y_max_compat), aup_replicates(*resampled_curves(theirs), y_max_compat)
        row |= with_interval("aup_compat", value, area_R) | {"y_max_compat": y_max_compat}
        own_R = aup_replicates(*resampled_curves(ours), y_max)
        row |= with_interval("aup_minus_compat", aup(sums.points(), y_max) - value, own_R - area_R)
    return row
