"""The frontier: every (policy, benchmark, threshold) as one row, and the headline of each (policy, benchmark).

AUP is computed here, where all rows of a table meet, under one y_max a benchmark: the best accuracy of any policy at
any threshold, unless the caller gives one. Intervals are 95 %, over problems; all policies of a benchmark are
resampled together, so differences to the base are paired. y_max is a constant of the table and stays fixed in the
replicates; the anchor y_min = (base's y_1) - 5 is taken anew in each, because it is an estimate.

Not done here: drawing, formatting (`tables`, `figures`), training curves and decoding steps (`series`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from lightningrl.evaluation.intervals import bootstrap_weights, paired_accuracy_difference, pooled_ratio
from lightningrl.evaluation.metrics import STATUSES, ProblemSums, problem_sums, summarise
from lightningrl.report import compat
from lightningrl.report.columns import blank, triple, with_interval
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


def collect(
    evaluations: Sequence[Evaluation],
    experiment: str,
    primary_threshold: float = 0.9,
    n_bootstrap: int = 1000,
    seed: int = 0,
    y_max: Mapping[str, float] | None = None,
) -> Frontier:
    """Both tables from the records; without any, empty ones.

    Rows keep the order of `evaluations` (benchmark by first appearance, then policy).

    primary_threshold: of the evaluations that name none. `y_max` overrides the best accuracy found (percent, by
    benchmark), to compare with a published table. An evaluation with a single threshold (a rival without a sweep) is
    shown at that one; `threshold` says so.
    Raises StageError when evaluations of a benchmark cover different problems, come twice, or miss the primary
    threshold, and when the base is ambiguous or unknown.
    """
    frontier: list[dict[str, Any]] = []
    headline: list[dict[str, Any]] = []
    for benchmark in dict.fromkeys(evaluation.benchmark for evaluation in evaluations):
        group = [evaluation for evaluation in evaluations if evaluation.benchmark == benchmark]
        sums = sums_by_policy(group)
        first = sums[group[0].policy]
        curves = {policy: each.points() for policy, each in sums.items()}
        best = max(accuracy for points in curves.values() for _, accuracy in points)
        limit = float((y_max or {}).get(benchmark, best))
        weights_RN = bootstrap_weights(len(first.uids), n_bootstrap, seed, first.benchmark)
        replicates = {policy: _replicate(each, weights_RN) for policy, each in sums.items()}
        papers = {each.policy: compat.paper_sums(each.records, sums[each.policy]) for each in group}
        limit_compat = compat.best_accuracy(list(papers.values()), list(sums.values()))
        for evaluation in group:
            mine = sums[evaluation.policy]
            primary = primary_index(evaluation, mine, primary_threshold)
            paper = papers[evaluation.policy]
            values = (experiment, evaluation.policy, evaluation.role, evaluation.algorithm, benchmark)
            rows = [
                dict(zip(NAMES, values, strict=True))
                | _summary_row(evaluation, threshold, n_bootstrap, seed)
                | {COMPAT: paper.accuracy_pct(mine, t), "tpf_paper": paper.tpf(t)}
                | {"is_primary": t == primary, "published": evaluation.published}
                for t, threshold in enumerate(mine.thresholds)
            ]
            frontier += rows
            base = base_of(evaluation, group)
            row = {key: rows[primary][key] for key in (*NAMES, "threshold", *SUMMARY_COLUMNS)}
            row |= compat.numbers(paper, mine, primary, limit, limit_compat, weights_RN)
            row |= _aup_numbers(evaluation.policy, base, curves, replicates, limit)
            row |= _accuracy_difference(evaluation, base, sums, primary, primary_threshold, group, weights_RN)
            row |= {"base": base or "", "n_bootstrap": n_bootstrap, "published": evaluation.published}
            row["thresholds"] = " ".join(f"{threshold:g}" for threshold in mine.thresholds)
            headline.append(row)
    return Frontier(
        pd.DataFrame(frontier, columns=list(FRONTIER_COLUMNS)), pd.DataFrame(headline, columns=list(HEADLINE_COLUMNS))
    )


def sums_by_policy(group: Sequence[Evaluation]) -> dict[str, ProblemSums]:
    """Per-problem sums of all evaluations of one benchmark, checked to be of the same problems."""
    sums: dict[str, ProblemSums] = {}
    for evaluation in group:
        name = f"{evaluation.policy} on {evaluation.benchmark}"
        if evaluation.policy in sums:
            raise StageError(f"{name} comes twice. Give each evaluation its own policy name.")
        sums[evaluation.policy] = problem_sums(evaluation.records)
        mine, first = set(sums[evaluation.policy].uids), set(sums[group[0].policy].uids)
        if mine != first:
            odd = sorted(mine ^ first)[0]
            raise StageError(
                f"{name} covers other problems than {group[0].policy} ({len(mine)} against {len(first)}; for example "
                f"{odd}). Paired intervals need the same ones: evaluate both on the same split and limit."
            )
    return sums


def base_of(evaluation: Evaluation, group: Sequence[Evaluation]) -> str | None:
    """The base's policy name: the one named (None where that is empty), else the only `before`, else None."""
    if evaluation.base == "":
        return None
    if evaluation.base is not None:
        if evaluation.base not in {each.policy for each in group}:
            raise StageError(
                f"{evaluation.policy} is to be compared with {evaluation.base}, which has no evaluation on "
                f"{evaluation.benchmark}. Add that evaluation or name another base."
            )
        return evaluation.base
    if evaluation.role == "before":
        return evaluation.policy
    before = [each.policy for each in group if each.role == "before"]
    if len(before) > 1:
        raise StageError(
            f"{evaluation.benchmark} has several policies of role 'before' ({', '.join(before)}); say in "
            f"Evaluation.base which one {evaluation.policy} is compared with."
        )
    return before[0] if before else None


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


def _summary_row(evaluation: Evaluation, threshold: float, n_bootstrap: int, seed: int) -> dict[str, Any]:
    summary = summarise([each for each in evaluation.records if each.threshold == threshold], n_bootstrap, seed)
    row = summary.to_json()
    columns = {"threshold": threshold} | {key: row[key] for key in SUMMARY_COLUMNS}
    return columns | {f"status_{status}": row["status"][status] for status in STATUSES}


def _replicate(sums: ProblemSums, weights_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[R, T] TPF and accuracy (percent) of the resampled curves."""
    tpf_RT = pooled_ratio(sums.tokens_TN, sums.forwards_TN, weights_RN)
    return tpf_RT, 100.0 * pooled_ratio(sums.correct_TN, sums.samples_TN, weights_RN)


def _aup_numbers(
    policy: str,
    base: str | None,
    curves: Mapping[str, list[tuple[float, float]]],
    replicates: Mapping[str, tuple[np.ndarray, np.ndarray]],
    y_max: float,
) -> dict[str, float]:
    area_R = aup_replicates(*replicates[policy], y_max)
    row = {"y_max": y_max} | with_interval("aup", aup(curves[policy], y_max), area_R)
    nan = float("nan")
    if base is None:
        return row | {"y_min": nan} | blank("aup_anchored") | blank("aup_anchored_difference")
    y_min = first_accuracy(curves[base]) - MAX_DROP_POINTS
    first_R = first_accuracy_replicates(*replicates[base])
    anchored = {name: aup_anchored(curves[name], y_min, y_max) for name in (policy, base)}
    anchored_R = {name: aup_replicates(*replicates[name], y_max, first_R - MAX_DROP_POINTS) for name in (policy, base)}
    row |= {"y_min": y_min} | with_interval("aup_anchored", anchored[policy], anchored_R[policy])
    if policy == base:
        return row | blank("aup_anchored_difference")
    difference = anchored[policy] - anchored[base]
    return row | with_interval("aup_anchored_difference", difference, anchored_R[policy] - anchored_R[base])


def _accuracy_difference(
    evaluation: Evaluation,
    base: str | None,
    sums: Mapping[str, ProblemSums],
    primary: int,
    primary_threshold: float,
    group: Sequence[Evaluation],
    weights_RN: np.ndarray,
) -> dict[str, float]:
    if base is None or base == evaluation.policy:
        return blank("accuracy_difference")
    of_base = next(each for each in group if each.policy == base)
    mine, other, t = sums[evaluation.policy], sums[base], primary_index(of_base, sums[base], primary_threshold)
    counts = (mine.correct_TN[primary], mine.samples_TN[primary], other.correct_TN[t], other.samples_TN[t])
    low, high = paired_accuracy_difference(*counts, weights_RN)
    value = 100.0 * (counts[0].sum() / counts[1].sum() - counts[2].sum() / counts[3].sum())
    return {"accuracy_difference": float(value), "accuracy_difference_low": low, "accuracy_difference_high": high}
