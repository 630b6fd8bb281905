"""Runs that differ only in their seeds, told together: one row a (benchmark, series, threshold).

A series' number is the mean over its runs (of accuracy, of TPF as a ratio of sums, of AUP). Intervals are 95 %, by a
bootstrap that draws problems and seeds anew, crossed: the problems are those that every other interval of the benchmark
draws, so differences to the base are paired. With few seeds such an interval is rough, so the values of each seed stand
beside it. A policy that stands alone is a series of one.

Shapes: S runs, N problems, T thresholds, R replicates. Not done here: drawing, formatting; single runs (`frontier`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lightningrl.errors import StageError
from lightningrl.evaluation.aup import (
    MAX_DROP_POINTS,
    aup_anchored,
    aup_replicates,
    first_accuracy,
    first_accuracy_replicates,
)
from lightningrl.evaluation.intervals import bootstrap_weights, pooled_ratio
from lightningrl.evaluation.metrics import ProblemSums
from lightningrl.report.columns import blank, triple, with_interval
from lightningrl.report.frontier import Evaluation, base_of, primary_index, sums_by_policy

BY_THRESHOLD = (
    "accuracy_pct", "accuracy_difference", "accuracy_drop", "tpf", "tpf_ratio", "forwards_per_problem",
    "response_tokens_mean", "response_tokens_difference",
)  # fmt: skip
"""`_difference` and `_ratio`: to the base at the same threshold, NaN for itself; `_drop`: from the primary threshold to
this one, percentage points."""
BY_SEED = ("accuracy_pct_by_seed", "tpf_by_seed", "response_tokens_by_seed", "aup_anchored_by_seed")
"""Numbers in the order of `seeds`, blanks between them."""
COLUMNS = (
    "series", "role", "algorithm", "benchmark", "split", "threshold", "is_primary", "seeds", "n_problems",
    *(column for name in BY_THRESHOLD for column in triple(name)), "y_max", "y_min", *triple("aup_anchored"),
    *triple("aup_anchored_difference"), *BY_SEED,
)  # fmt: skip
"""AUP is of a whole curve: it stands in the row of the primary threshold and is NaN in the others."""


Numbers = dict[str, tuple[np.ndarray, np.ndarray]]
"""Name -> as counted [T], and in each replicate [R, T]."""


def _single(run: ProblemSums, weights_RN: np.ndarray) -> Numbers:
    """What one run adds up to."""

    def ratio(above_TN: np.ndarray, below_TN: np.ndarray, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        return factor * above_TN.sum(1) / below_TN.sum(1), factor * pooled_ratio(above_TN, below_TN, weights_RN)

    return {
        "accuracy_pct": ratio(run.correct_TN, run.samples_TN, 100.0),
        "tpf": ratio(run.tokens_TN, run.forwards_TN),
        "forwards_per_problem": ratio(run.forwards_TN, run.samples_TN),
        "response_tokens_mean": ratio(run.tokens_TN, run.samples_TN),
    }


def _mean(runs: Sequence[Numbers], weights_RS: np.ndarray) -> Numbers:
    """Over runs, in each replicate over those that it drew."""
    share_RS = weights_RS / weights_RS.sum(1, keepdims=True)
    found: Numbers = {}
    for name in runs[0]:
        counted_T = np.mean([run[name][0] for run in runs], axis=0)
        found[name] = counted_T, np.einsum("rs,srt->rt", share_RS, np.stack([run[name][1] for run in runs]))
    return found


def pooled(
    evaluations: Sequence[Evaluation],
    primary_threshold: float = 0.9,
    n_bootstrap: int = 1000,
    seed: int = 0,
    y_max: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """`COLUMNS`, in the order of the evaluations: benchmark, then series by its first run.

    Raises StageError when runs of a series differ in more than their seed (role, algorithm, base, thresholds), when
    two have one seed, and what `frontier.collect` raises.
    """
    rows: list[dict[str, Any]] = []
    for benchmark in dict.fromkeys(evaluation.benchmark for evaluation in evaluations):
        group = [evaluation for evaluation in evaluations if evaluation.benchmark == benchmark]
        sums = sums_by_policy(group)
        best = max(accuracy for each in sums.values() for _, accuracy in each.points())
        limit = float((y_max or {}).get(benchmark, best))
        first = sums[group[0].policy]
        weights_RN = bootstrap_weights(len(first.uids), n_bootstrap, seed, first.benchmark)
        for name in dict.fromkeys(evaluation.series or evaluation.policy for evaluation in group):
            runs = [each for each in group if (each.series or each.policy) == name]
            base = _check(name, runs, sums, group)
            rows += _rows(name, runs, base, sums, weights_RN, seed, primary_threshold, limit)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _check(
    name: str, runs: Sequence[Evaluation], sums: Mapping[str, ProblemSums], group: Sequence[Evaluation]
) -> str | None:
    """The base that all of them have."""
    for what, found in (
        ("role", {run.role for run in runs}),
        ("algorithm", {run.algorithm for run in runs}),
        ("base", {base_of(run, group) for run in runs}),
        ("sweep of thresholds", {sums[run.policy].thresholds for run in runs}),
    ):
        if len(found) > 1:
            told = ", ".join(sorted(str(value) for value in found))
            raise StageError(
                f"the runs of the series {name} have more than one {what} ({told}); give them other series."
            )
    if len(runs) > 1 and len({run.seed for run in runs}) < len(runs):
        raise StageError(f"two runs of the series {name} have the same seed, so they are the same run.")
    return base_of(runs[0], group)


def _rows(
    name: str,
    runs: Sequence[Evaluation],
    base: str | None,
    sums: Mapping[str, ProblemSums],
    weights_RN: np.ndarray,
    seed: int,
    primary_threshold: float,
    y_max: float,
) -> list[dict[str, Any]]:
    mine = [sums[run.policy] for run in runs]
    weights_RS = _seed_weights(len(runs), len(weights_RN), seed, f"{runs[0].benchmark}/{name}")
    single = [_single(each, weights_RN) for each in mine]
    totals = _mean(single, weights_RS)
    other, at = {}, {}
    if base is not None and [run.policy for run in runs] != [base]:
        other = _single(sums[base], weights_RN)
        at = {threshold: t for t, threshold in enumerate(sums[base].thresholds)}
    primary = primary_index(runs[0], mine[0], primary_threshold)
    areas = _areas(mine, None if base is None else sums[base], weights_RN, weights_RS, y_max, bool(other))
    rows = []
    for t, threshold in enumerate(mine[0].thresholds):
        row: dict[str, Any] = {
            "series": name, "role": runs[0].role, "algorithm": runs[0].algorithm, "benchmark": runs[0].benchmark,
            "split": mine[0].uids[0].split("/")[1],
            "threshold": threshold, "is_primary": t == primary, "n_problems": len(mine[0].uids),
            "seeds": " ".join(str(run.seed) for run in runs if run.seed is not None),
        }  # fmt: skip
        for number, (value_T, drawn_RT) in totals.items():
            row |= with_interval(number, value_T[t], drawn_RT[:, t])
        accuracy_T, accuracy_RT = totals["accuracy_pct"]
        dropped_R = accuracy_RT[:, primary] - accuracy_RT[:, t]
        row |= with_interval("accuracy_drop", accuracy_T[primary] - accuracy_T[t], dropped_R)
        row |= _against(totals, other, t, at.get(threshold))
        row |= {"accuracy_pct_by_seed": _told(each["accuracy_pct"][0][t] for each in single)}
        row |= {"tpf_by_seed": _told(each["tpf"][0][t] for each in single)}
        row |= {"response_tokens_by_seed": _told(each["response_tokens_mean"][0][t] for each in single)}
        row |= {"y_max": y_max} | (areas if t == primary else {})
        rows.append(row)
    return rows


def _seed_weights(n_runs: int, n_replicates: int, seed: int, key: str) -> np.ndarray:
    """[R, S] how often each run is drawn."""
    return np.ones((n_replicates, 1)) if n_runs == 1 else bootstrap_weights(n_runs, n_replicates, seed, key)


def _against(totals: Mapping[str, Any], other: Mapping[str, Any], t: int, at: int | None) -> dict[str, float]:
    """Differences to the base at the same threshold; NaN where it has none."""
    names = ("accuracy_difference", "tpf_ratio", "response_tokens_difference")
    if not other or at is None:
        return {key: value for name in names for key, value in blank(name).items()}

    def pair(number: str) -> tuple[float, float, np.ndarray, np.ndarray]:
        (mine_T, mine_RT), (base_T, base_RT) = totals[number], other[number]
        return mine_T[t], base_T[at], mine_RT[:, t], base_RT[:, at]

    row: dict[str, float] = {}
    for name, number in (
        ("accuracy_difference", "accuracy_pct"),
        ("response_tokens_difference", "response_tokens_mean"),
    ):
        value, base, drawn_R, base_R = pair(number)
        row |= with_interval(name, value - base, drawn_R - base_R)
    value, base, drawn_R, base_R = pair("tpf")
    return row | with_interval("tpf_ratio", value / base, drawn_R / base_R)


def _areas(
    runs: Sequence[ProblemSums],
    base: ProblemSums | None,
    weights_RN: np.ndarray,
    weights_RS: np.ndarray,
    y_max: float,
    is_compared: bool,
) -> dict[str, Any]:
    """The anchored AUP of each run, their mean, and its difference to the base's."""
    if base is None:
        return {}
    curve = _curve(base, weights_RN)
    y_min_R = first_accuracy_replicates(*curve) - MAX_DROP_POINTS
    y_min = first_accuracy(base.points()) - MAX_DROP_POINTS
    values_S = [aup_anchored(run.points(), y_min, y_max) for run in runs]
    drawn_RS = np.stack([aup_replicates(*_curve(run, weights_RN), y_max, y_min_R) for run in runs], axis=1)
    drawn_R = (weights_RS * drawn_RS).sum(1) / weights_RS.sum(1)
    found: dict[str, Any] = {"y_min": y_min, "aup_anchored_by_seed": _told(values_S)}
    found |= with_interval("aup_anchored", float(np.mean(values_S)), drawn_R)
    if not is_compared:
        return found | blank("aup_anchored_difference")
    base_area, base_R = aup_anchored(base.points(), y_min, y_max), aup_replicates(*curve, y_max, y_min_R)
    return found | with_interval("aup_anchored_difference", float(np.mean(values_S)) - base_area, drawn_R - base_R)


def _curve(run: ProblemSums, weights_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[R, T] TPF and accuracy (percent)."""
    numbers = _single(run, weights_RN)
    return numbers["tpf"][1], numbers["accuracy_pct"][1]


def _told(values: Any) -> str:
    return " ".join(f"{value:.4f}" for value in values)
