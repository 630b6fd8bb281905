"""Runs that differ only in their seeds, told together: one row a (benchmark, series, threshold).

A series' number is the mean over its runs (of accuracy, of TPF as a ratio of sums, of AUP). Intervals are 95 %, by a
bootstrap that draws problems and seeds anew, crossed: the problems are those of every other interval of the benchmark,
so differences to the base are paired. With few seeds it is rough, so the values of each seed stand beside it.

Shapes: S runs, T thresholds, R replicates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lightningrl.errors import StageError
from lightningrl.evaluation.intervals import bootstrap_weights, triple, with_interval
from lightningrl.evaluation.metrics import Numbers
from lightningrl.report.frontier import Evaluation, Group

BY_THRESHOLD = (
    "accuracy_pct", "accuracy_difference", "accuracy_drop", "tpf", "tpf_ratio", "forwards_per_problem",
    "response_tokens_mean", "response_tokens_difference",
)  # fmt: skip
"""`_difference` and `_ratio`: to the base at the same threshold, NaN for itself; `_drop`: from the primary threshold to
this one, percentage points."""
BY_SEED = {
    "accuracy_pct_by_seed": "accuracy_pct",
    "tpf_by_seed": "tpf",
    "response_tokens_by_seed": "response_tokens_mean",
}
"""Column -> its number, in the order of `seeds`, blanks between them."""
COLUMNS = (
    "series", "role", "algorithm", "benchmark", "split", "threshold", "is_primary", "seeds", "n_problems",
    *(column for name in BY_THRESHOLD for column in triple(name)), "y_max", "y_min", *triple("aup_anchored"),
    *triple("aup_anchored_difference"), *BY_SEED, "aup_anchored_by_seed",
)  # fmt: skip
"""AUP is of a whole curve: it stands in the row of the primary threshold and is NaN in the others."""


def pooled(groups: Iterable[Group]) -> pd.DataFrame:
    """Returns `COLUMNS`, in the order of the evaluations: benchmark, then series by its first run.

    Raises StageError when runs of a series differ in more than their seed (role, algorithm, base, thresholds), when
    two have one seed, and what `frontier.collect` raises.
    """
    rows: list[dict[str, Any]] = []
    for group in groups:
        series: dict[str, list[Evaluation]] = {}
        for run in group.evaluations.values():
            series.setdefault(run.series or run.policy, []).append(run)
        for name, runs in series.items():
            _check(name, runs, group)
            rows += _rows(name, runs, group)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _check(name: str, runs: Sequence[Evaluation], group: Group) -> None:
    for what, found in (
        ("role", {run.role for run in runs}),
        ("algorithm", {run.algorithm for run in runs}),
        ("base", {group.base_of(run.policy) for run in runs}),
        ("sweep of thresholds", {group.sums[run.policy].thresholds for run in runs}),
    ):
        if len(found) > 1:
            told = ", ".join(sorted(map(str, found)))
            raise StageError(
                f"the runs of the series {name} have more than one {what} ({told}); give them other series."
            )
    if len(runs) > 1 and len({run.seed for run in runs}) < len(runs):
        raise StageError(f"two runs of the series {name} have the same seed, so they are the same run.")


def _rows(name: str, runs: Sequence[Evaluation], group: Group) -> Iterator[dict[str, Any]]:
    first, sums = runs[0], group.sums[runs[0].policy]
    single = [group.numbers[run.policy] for run in runs]
    weights_RS = np.ones((group.n_bootstrap, 1))  # how often each run is drawn
    if len(runs) > 1:
        weights_RS = bootstrap_weights(len(runs), group.n_bootstrap, group.seed, f"{group.benchmark}/{name}")
    totals = _mean(single, weights_RS)
    base, primary = group.base_of(first.policy), group.primary(first.policy)
    is_base = [run.policy for run in runs] == [base]
    at = {} if base is None or is_base else {value: t for t, value in enumerate(group.sums[base].thresholds)}
    for t, threshold in enumerate(sums.thresholds):
        row: dict[str, Any] = {
            "series": name, "role": first.role, "algorithm": first.algorithm, "benchmark": first.benchmark,
            "split": sums.uids[0].split("/")[1], "threshold": threshold, "is_primary": t == primary,
            "seeds": " ".join(str(run.seed) for run in runs if run.seed is not None), "n_problems": len(sums.uids),
            "y_max": group.y_max,
        }  # fmt: skip
        for number, (value_T, drawn_RT) in totals.items():
            row |= with_interval(number, value_T[t], drawn_RT[:, t])
        accuracy_T, accuracy_RT = totals["accuracy_pct"]
        dropped_R = accuracy_RT[:, primary] - accuracy_RT[:, t]
        row |= with_interval("accuracy_drop", accuracy_T[primary] - accuracy_T[t], dropped_R)
        if base is not None and threshold in at:
            row |= _against(totals, t, group.numbers[base], at[threshold])
        row |= {column: _told(each[number][0][t] for each in single) for column, number in BY_SEED.items()}
        if base is not None and t == primary and all(group.counts(each) for each in (base, *(r.policy for r in runs))):
            row |= _areas(runs, base, is_base, group, weights_RS)
        yield row


def _mean(runs: Sequence[Numbers], weights_RS: np.ndarray) -> Numbers:
    """Returns the mean over runs, in each replicate over those that it drew."""
    share_RS = weights_RS / weights_RS.sum(1, keepdims=True)
    found: Numbers = {}
    for name in runs[0]:
        counted_T = np.mean([run[name][0] for run in runs], axis=0)
        found[name] = counted_T, np.einsum("rs,srt->rt", share_RS, np.stack([run[name][1] for run in runs]))
    return found


def _against(mine: Numbers, t: int, base: Numbers, at: int) -> dict[str, float]:
    """Returns the differences to the base at the same threshold."""
    row: dict[str, float] = {}
    for column, number, compare in (
        ("accuracy_difference", "accuracy_pct", np.subtract),
        ("response_tokens_difference", "response_tokens_mean", np.subtract),
        ("tpf_ratio", "tpf", np.divide),
    ):
        (value_T, drawn_RT), (base_T, base_RT) = mine[number], base[number]
        row |= with_interval(column, compare(value_T[t], base_T[at]), compare(drawn_RT[:, t], base_RT[:, at]))
    return row


def _areas(
    runs: Sequence[Evaluation], base: str, is_base: bool, group: Group, weights_RS: np.ndarray
) -> dict[str, Any]:
    """Returns the anchored AUP of each run, their mean, and its difference to the base's."""
    values_S, drawn_SR = zip(*(group.anchored(run.policy, base) for run in runs), strict=True)
    drawn_R = (weights_RS * np.stack(drawn_SR, axis=1)).sum(1) / weights_RS.sum(1)
    value = float(np.mean(values_S))
    row = {"y_min": group.y_min(base), "aup_anchored_by_seed": _told(values_S)}
    row |= with_interval("aup_anchored", value, drawn_R)
    if not is_base:
        base_area, base_R = group.anchored(base, base)
        row |= with_interval("aup_anchored_difference", value - base_area, drawn_R - base_R)
    return row


def _told(values: Iterable[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
