"""The frontier: every (policy, benchmark, threshold) as one row, and the headline of each (policy, benchmark).

AUP is computed here, where all rows of a table meet, under one y_max a benchmark: the best accuracy of any policy at
any threshold, unless the caller gives one. Intervals are 95 %, over problems; all policies of a benchmark are
resampled together, so differences to the base are paired. y_max is a constant of the table and stays fixed in the
replicates; the anchor y_min = (base's y_1) - 5 is taken anew in each, because it is an estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from lightningrl.errors import StageError
from lightningrl.evaluation.aup import (
    MAX_DROP_POINTS,
    aup,
    aup_anchored,
    aup_replicates,
    first_accuracy,
    first_accuracy_replicates,
)
from lightningrl.evaluation.intervals import Estimate, bootstrap_weights, paired_difference, triple, with_interval
from lightningrl.evaluation.metrics import STATUSES, ProblemSums, problem_sums, resampled_curves, summarise
from lightningrl.report import compat
from lightningrl.report.compat import COMPAT
from lightningrl.types import EvalRecord

Role = Literal["before", "after", "rival", "control", "ablation", "released"]

NAMES = ("experiment", "policy", "role", "algorithm", "benchmark")
SUMMARY_COLUMNS = (
    "n_problems", "n_samples", *triple("accuracy_pct"), *triple("tpf"), "tpf_mean", "tpf_true", "tpf_true_mean",
    *triple("forwards_per_problem"), "response_tokens_mean", "truncated_pct",
)  # fmt: skip
"""The columns of both tables that come from `EvalSummary`, units as documented there."""
FRONTIER_COLUMNS = (
    *NAMES, "threshold", *SUMMARY_COLUMNS, COMPAT, "tpf_paper", *(f"status_{status}" for status in STATUSES),
    "is_primary", "published",
)  # fmt: skip
HEADLINE_COLUMNS = (
    *NAMES, "threshold", *SUMMARY_COLUMNS, *compat.COLUMNS, "y_max", *triple("aup"), "y_min", *triple("aup_anchored"),
    *triple("aup_anchored_difference"), *triple("accuracy_difference"), "base", "n_bootstrap", "thresholds",
    "published",
)  # fmt: skip
"""Always all there; NaN where a number does not apply. The paper's grader and count: `report.compat`."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All records of one policy on one benchmark, at every threshold.

    >>> Evaluation("LightningRL", "after", "lightningrl", "gsm-mini", [], base="SDAR").base
    'SDAR'
    """

    policy: str
    """The name that tables and figures show."""
    role: Role
    """`before`: what was trained from; `after`: the trained policy; `rival`: another method; `control`: a check;
    `ablation`: the method with one thing changed; `released`: a checkpoint that others trained."""
    algorithm: str
    """Name of the RL preset, or of the decoder for an untrained policy."""
    benchmark: str
    records: Sequence[EvalRecord]
    """Any order; every threshold must hold the same problems."""
    base: str | None = None
    """Policy it is compared with; None: the benchmark's only `before`; empty: with none."""
    published: str = ""
    """The row of the paper's tables that it stands for, if any."""
    series: str = ""
    """Runs of one series differ only in their seed (`pooled`); empty: it stands alone."""
    seed: int | None = None
    primary_threshold: float | None = None
    """The threshold of its headline numbers; None: the one that is given for all."""


@dataclass(frozen=True, slots=True, eq=False)
class Frontier:
    """The two tables that figures and tables are made of."""

    frontier: pd.DataFrame
    """One row per (experiment, policy, role, algorithm, benchmark, threshold): the numbers of `EvalSummary`, those by
    the paper's grader and count, the status counts as `status_*`, and `is_primary`."""
    headline: pd.DataFrame
    """One row per (policy, benchmark) at the primary threshold, with `aup`, `aup_anchored` (TPF x percent),
    `accuracy_difference` (percentage points) and `aup_anchored_difference` to the base, each with `_low` and `_high`;
    NaN where there is no base or it is the base itself. Beside them what `report.compat` says."""


class Group:
    """The evaluations of one benchmark, of the same problems, and replicates that draw these problems for all alike."""

    def __init__(
        self,
        evaluations: Sequence[Evaluation],
        primary_threshold: float,
        n_bootstrap: int,
        seed: int,
        y_max: float | None = None,
    ) -> None:
        """Raises StageError when evaluations cover different problems or come twice."""
        self.benchmark, self._primary_threshold = evaluations[0].benchmark, primary_threshold
        self.evaluations: dict[str, Evaluation] = {}
        self.sums: dict[str, ProblemSums] = {}
        for evaluation in evaluations:
            name = f"{evaluation.policy} on {self.benchmark}"
            if evaluation.policy in self.sums:
                raise StageError(f"{name} comes twice. Give each evaluation its own policy name.")
            self.evaluations[evaluation.policy] = evaluation
            self.sums[evaluation.policy] = mine = problem_sums(evaluation.records)
            first = self.sums[evaluations[0].policy]
            if mine.uids != first.uids:
                odd = min({*mine.uids} ^ {*first.uids})
                raise StageError(
                    f"{name} covers other problems than {evaluations[0].policy} ({len(mine.uids)} against "
                    f"{len(first.uids)}; for example {odd}). Paired intervals need the same ones: evaluate both on the "
                    "same split and limit."
                )
        self.weights_RN = bootstrap_weights(len(first.uids), n_bootstrap, seed, first.benchmark)
        self.numbers = {policy: sums.numbers(self.weights_RN) for policy, sums in self.sums.items()}
        self.curves = {policy: resampled_curves(numbers) for policy, numbers in self.numbers.items()}
        best = max(accuracy for sums in self.sums.values() for _, accuracy in sums.points())
        self.y_max = best if y_max is None else float(y_max)

    def base_of(self, policy: str) -> str | None:
        """Returns the base's name: the one given (None where that is empty), else the only `before`, else None.

        Raises StageError when it is ambiguous or has no evaluation here.
        """
        evaluation = self.evaluations[policy]
        if evaluation.base is not None:
            if evaluation.base and evaluation.base not in self.evaluations:
                raise StageError(
                    f"{policy} is to be compared with {evaluation.base}, which has no evaluation on {self.benchmark}. "
                    "Add that evaluation or name another base."
                )
            return evaluation.base or None
        before = [each.policy for each in self.evaluations.values() if each.role == "before"]
        if evaluation.role == "before":
            return policy
        if len(before) > 1:
            raise StageError(
                f"{self.benchmark} has several policies of role 'before' ({', '.join(before)}); say in "
                f"Evaluation.base which one {policy} is compared with."
            )
        return before[0] if before else None

    def primary(self, policy: str) -> int:
        """Returns the index of the policy's primary threshold, or raises StageError."""
        return primary_index(self.evaluations[policy], self.sums[policy], self._primary_threshold)

    def y_min(self, base: str) -> float:
        return first_accuracy(self.sums[base].points()) - MAX_DROP_POINTS

    def anchored(self, policy: str, base: str) -> tuple[float, np.ndarray]:
        """Returns a policy's AUP under its base's y_min, and [R] those of the replicates."""
        y_min_R = first_accuracy_replicates(*self.curves[base]) - MAX_DROP_POINTS
        value = aup_anchored(self.sums[policy].points(), self.y_min(base), self.y_max)
        return value, aup_replicates(*self.curves[policy], self.y_max, y_min_R)

    def difference(self, above: str, below: str, policy: str, base: str, factor: float = 1.0) -> Estimate:
        """Returns the ratio of two of the `ProblemSums` minus the base's, each at its primary threshold."""
        mine, other = (
            (getattr(self.sums[each], above)[self.primary(each)], getattr(self.sums[each], below)[self.primary(each)])
            for each in (policy, base)
        )
        return paired_difference(mine, other, self.weights_RN, factor)


def groups(
    evaluations: Sequence[Evaluation],
    primary_threshold: float,
    n_bootstrap: int,
    seed: int,
    y_max: Mapping[str, float] | None = None,
) -> Iterator[Group]:
    """Yields the evaluations of each benchmark, by first appearance. y_max: percent, by benchmark."""
    for benchmark in dict.fromkeys(evaluation.benchmark for evaluation in evaluations):
        mine = [evaluation for evaluation in evaluations if evaluation.benchmark == benchmark]
        yield Group(mine, primary_threshold, n_bootstrap, seed, (y_max or {}).get(benchmark))


def collect(
    evaluations: Sequence[Evaluation],
    experiment: str,
    primary_threshold: float = 0.9,
    n_bootstrap: int = 1000,
    seed: int = 0,
    y_max: Mapping[str, float] | None = None,
) -> Frontier:
    """Returns both tables from the records; without any, empty ones.

    Rows keep the order of `evaluations` (benchmark by first appearance, then policy).

    primary_threshold: of the evaluations that name none. `y_max` overrides the best accuracy found (percent, by
    benchmark), to compare with a published table. An evaluation with a single threshold (a rival without a sweep) is
    shown at that one; `threshold` says so.
    Raises StageError when evaluations of a benchmark cover different problems, come twice, or miss the primary
    threshold, and when the base is ambiguous or unknown.
    """
    frontier: list[dict[str, Any]] = []
    headline: list[dict[str, Any]] = []
    for group in groups(evaluations, primary_threshold, n_bootstrap, seed, y_max):
        papers = {name: compat.paper_sums(each.records, group.sums[name]) for name, each in group.evaluations.items()}
        y_max_compat = max((accuracy for paper in papers.values() for _, accuracy in paper.curve()), default=np.nan)
        for policy, evaluation in group.evaluations.items():
            sums, paper, primary = group.sums[policy], papers[policy], group.primary(policy)
            names = (experiment, policy, evaluation.role, evaluation.algorithm, group.benchmark)
            rows = [
                dict(zip(NAMES, names, strict=True))
                | _summary(evaluation, threshold, n_bootstrap, seed)
                | {COMPAT: accuracy, "tpf_paper": tpf, "is_primary": t == primary, "published": evaluation.published}
                for t, (threshold, (tpf, accuracy)) in enumerate(zip(sums.thresholds, paper.points(), strict=True))
            ]
            frontier += rows
            row = rows[primary] | {"n_bootstrap": n_bootstrap, "y_max": group.y_max}
            row["thresholds"] = " ".join(f"{threshold:g}" for threshold in sums.thresholds)
            row |= compat.numbers(paper, sums, primary, group.y_max, y_max_compat, group.weights_RN)
            area_R = aup_replicates(*group.curves[policy], group.y_max)
            row |= with_interval("aup", aup(sums.points(), group.y_max), area_R)
            headline.append(row | _against_base(group, policy))
    return Frontier(
        pd.DataFrame(frontier, columns=list(FRONTIER_COLUMNS)), pd.DataFrame(headline, columns=list(HEADLINE_COLUMNS))
    )


def primary_index(evaluation: Evaluation, sums: ProblemSums, primary_threshold: float) -> int:
    """Returns the index of the threshold that the headline shows: its own primary one, else the one of all."""
    if evaluation.primary_threshold is not None:
        primary_threshold = evaluation.primary_threshold
    found = np.flatnonzero(np.isclose(sums.thresholds, primary_threshold, rtol=0, atol=1e-9))
    if len(found):
        return int(found[0])
    if len(sums.thresholds) == 1:
        return 0
    listed = ", ".join(f"{threshold:g}" for threshold in sums.thresholds)
    raise StageError(
        f"{evaluation.policy} on {evaluation.benchmark} has no records at the primary threshold {primary_threshold:g} "
        f"(found: {listed}). Add it to the sweep or choose another primary threshold."
    )


def _summary(evaluation: Evaluation, threshold: float, n_bootstrap: int, seed: int) -> dict[str, Any]:
    summary = summarise([each for each in evaluation.records if each.threshold == threshold], n_bootstrap, seed)
    row = summary.to_json()
    columns = {"threshold": threshold} | {key: row[key] for key in SUMMARY_COLUMNS}
    return columns | {f"status_{status}": row["status"][status] for status in STATUSES}


def _against_base(group: Group, policy: str) -> dict[str, Any]:
    """Returns the headline's columns that need a base, as far as the policy has one that is another policy."""
    base = group.base_of(policy)
    if base is None:
        return {"base": ""}
    area, area_R = group.anchored(policy, base)
    row = {"base": base, "y_min": group.y_min(base)} | with_interval("aup_anchored", area, area_R)
    if base == policy:
        return row
    base_area, base_R = group.anchored(base, base)
    row |= with_interval("aup_anchored_difference", area - base_area, area_R - base_R)
    difference = group.difference("correct_TN", "samples_TN", policy, base, 100.0)
    return row | dict(zip(triple("accuracy_difference"), difference, strict=True))
