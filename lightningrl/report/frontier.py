"""The frontier: every (policy, benchmark, threshold) as one row, and the headline of each (policy, benchmark).

AUP is computed here, where all rows of a table meet, under one y_max a benchmark: the best accuracy of any policy at
any threshold, unless the caller gives one. Intervals are 95 %, over problems; all policies of a benchmark are
resampled together, so differences to the base are paired. y_max is a constant of the table and stays fixed in the
replicates; the anchor y_min = (base's y_1) - 5 is taken anew in each, because it is an estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from lightningrl.decoding.tpf_variants import VIEWS
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
from lightningrl.evaluation.metrics import STATUSES, WORK, ProblemSums, problem_sums, resampled_curves, summarise
from lightningrl.evaluation.reported import is_reported
from lightningrl.report import compat, reported
from lightningrl.report.compat import COMPAT
from lightningrl.types import EvalRecord
from lightningrl.utils.numbers import is_same, shortest

Role = Literal["before", "after", "rival", "control", "ablation", "released"]

NAMES = ("experiment", "policy", "role", "algorithm", "benchmark")
SUMMARY_COLUMNS = (
    "n_problems", "n_samples", *triple("accuracy_pct"), *triple("tpf"), "tpf_mean", "tpf_true", "tpf_true_mean",
    *VIEWS, *(f"{work}_per_token_{end}" for work in WORK for end in ("low", "high")), *triple("forwards_per_problem"),
    "response_tokens_mean", "truncated_pct", "family",
)  # fmt: skip
"""The columns of both tables that come from `EvalSummary`, units as documented there."""
FRONTIER_COLUMNS = (
    *NAMES, "threshold", *SUMMARY_COLUMNS, COMPAT, "tpf_paper", *(f"status_{status}" for status in STATUSES),
    *reported.BY_THRESHOLD, "is_primary", "published",
)  # fmt: skip
HEADLINE_COLUMNS = (
    *NAMES, "threshold", *SUMMARY_COLUMNS, *compat.COLUMNS, "y_max", *triple("aup"), "y_min", *triple("aup_anchored"),
    *triple("aup_anchored_difference"), *triple("accuracy_difference"), *reported.COLUMNS, "status_no_answer",
    "base", "n_bootstrap", "thresholds", "published",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All records of one policy on one benchmark, at every threshold."""

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


class Frontier(NamedTuple):
    """The two tables that figures and tables are made of; NaN where a number does not apply."""

    frontier: pd.DataFrame
    """One row per (policy, benchmark, threshold): the numbers of `EvalSummary`, those by the paper's grader and count,
    the status counts as `status_*`, and `is_primary`."""
    headline: pd.DataFrame
    """One row per (policy, benchmark) at the primary threshold, with `aup`, `aup_anchored` (TPF x percent), and
    `accuracy_difference` (percentage points) and `aup_anchored_difference` to the base. Beside them what
    `report.compat` says."""


class Group:
    """The evaluations of one benchmark, of the same problems, and replicates that draw these problems for all alike."""

    def __init__(
        self, evaluations: Sequence[Evaluation], threshold: float, n_bootstrap: int, seed: int, y_max: float | None
    ) -> None:
        self.benchmark, self.threshold = evaluations[0].benchmark, threshold
        self.n_bootstrap, self.seed = n_bootstrap, seed
        self.evaluations: dict[str, Evaluation] = {}
        self.sums: dict[str, ProblemSums] = {}
        for evaluation in evaluations:
            name = f"{evaluation.policy} on {self.benchmark}"
            if evaluation.policy in self.sums:
                raise StageError(f"{name} comes twice. Give each evaluation its own policy name.")
            self.evaluations[evaluation.policy] = evaluation
            told = is_reported(evaluation.records)  # by a server, which has no counts of ours
            told = told or all(record.denoise_forwards is None for record in evaluation.records)  # by likelihood
            self.sums[evaluation.policy] = mine = problem_sums(evaluation.records, require_counts=not told)
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
        """Returns the index of the threshold that the headline shows: the policy's own primary one, else that of all.

        Raises StageError where its sweep lacks it.
        """
        own, thresholds = self.evaluations[policy].primary_threshold, self.sums[policy].thresholds
        primary = self.threshold if own is None else own
        found = [t for t, threshold in enumerate(thresholds) if is_same(threshold, primary)]
        if found or len(thresholds) == 1:
            return found[0] if found else 0
        listed = ", ".join(map(shortest, thresholds))
        raise StageError(
            f"{policy} on {self.benchmark} has no records at the primary threshold {shortest(primary)} (found: "
            f"{listed}). Add it to the sweep or choose another primary threshold."
        )

    def counts(self, policy: str) -> bool:
        """Returns whether its forwards were counted here; a server's were not, so it has no TPF and no AUP of ours."""
        return not np.isnan(self.sums[policy].forwards_TN).any()

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
    primary_threshold: float = 0.9,
    n_bootstrap: int = 1000,
    seed: int = 0,
    y_max: Mapping[str, float] | None = None,
) -> list[Group]:
    """Returns the evaluations of each benchmark, by first appearance.

    primary_threshold: of the evaluations that name none; one with a single threshold (a rival without a sweep) is shown
    at that one. `y_max` overrides the best accuracy found (percent, by benchmark), to compare with a published table.
    Raises StageError when evaluations of a benchmark cover different problems or come twice.
    """
    by_benchmark: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        by_benchmark.setdefault(evaluation.benchmark, []).append(evaluation)
    limits = y_max or {}
    return [Group(mine, primary_threshold, n_bootstrap, seed, limits.get(name)) for name, mine in by_benchmark.items()]


def collect(groups: Iterable[Group], experiment: str) -> Frontier:
    """Returns both tables, in the order of the evaluations.

    Raises StageError when one misses the primary threshold, and when a base is ambiguous or unknown.
    """
    frontier: list[dict[str, Any]] = []
    headline: list[dict[str, Any]] = []
    for group in groups:
        papers = {name: compat.paper_sums(each.records, group.sums[name]) for name, each in group.evaluations.items()}
        y_max_compat = max((accuracy for paper in papers.values() for _, accuracy in paper.curve()), default=np.nan)
        for policy, evaluation in group.evaluations.items():
            sums, paper, primary = group.sums[policy], papers[policy], group.primary(policy)
            told = reported.reported(evaluation.records, sums, group.weights_RN)
            names = (experiment, policy, evaluation.role, evaluation.algorithm, group.benchmark)
            rows = [
                _summary(evaluation, threshold, group)
                | dict(zip(NAMES, names, strict=True))
                | {COMPAT: accuracy, "tpf_paper": tpf, "is_primary": t == primary, "published": evaluation.published}
                | ({} if told is None else told.at(t))
                for t, (threshold, (tpf, accuracy)) in enumerate(zip(sums.thresholds, paper.points(), strict=True))
            ]
            frontier += rows
            row = rows[primary] | {"n_bootstrap": group.n_bootstrap, "y_max": group.y_max}
            row["thresholds"] = " ".join(map(shortest, sums.thresholds))
            row |= compat.numbers(paper, sums, primary, group.y_max, y_max_compat, group.weights_RN)
            if group.counts(policy):
                area_R = aup_replicates(*group.curves[policy], group.y_max)
                row |= with_interval("aup", aup(sums.points(), group.y_max), area_R)
            if told is not None:
                row |= told.area(group.y_max)
            headline.append(row | _against_base(group, policy))
    return Frontier(
        pd.DataFrame(frontier, columns=list(FRONTIER_COLUMNS)), pd.DataFrame(headline, columns=list(HEADLINE_COLUMNS))
    )


def _summary(evaluation: Evaluation, threshold: float, group: Group) -> dict[str, Any]:
    records = [each for each in evaluation.records if each.threshold == threshold]
    row = summarise(records, group.n_bootstrap, group.seed, group.counts(evaluation.policy)).to_json()
    return row | {f"status_{status}": count for status, count in row["status"].items()}


def _against_base(group: Group, policy: str) -> dict[str, Any]:
    """Returns the headline's columns that need a base, as far as the policy has one that is another policy."""
    base = group.base_of(policy)
    if base is None:
        return {"base": ""}
    row: dict[str, Any] = {"base": base}
    counts = group.counts(policy) and group.counts(base)
    if counts:
        area, area_R = group.anchored(policy, base)
        row |= {"y_min": group.y_min(base)} | with_interval("aup_anchored", area, area_R)
    if base == policy:
        return row
    if counts:
        base_area, base_R = group.anchored(base, base)
        row |= with_interval("aup_anchored_difference", area - base_area, area_R - base_R)
    difference = group.difference("correct_TN", "samples_TN", policy, base, 100.0)
    return row | dict(zip(triple("accuracy_difference"), difference, strict=True))
