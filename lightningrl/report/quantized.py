"""Quantised systems against their own weights in floating point: one row a (system, benchmark, threshold).

Differences and ratios are paired by problem with the system of the same weights and decoder without a quantizer
(`exact`), at the same threshold, and at that one's primary threshold (`_to_primary`), which says what another threshold
buys back. AUP is on the float system's axis: its y_min (5 points below its first accuracy) and its y_max, the best
accuracy that it has anywhere; it is compared where both have the same thresholds. `_beyond`: the difference of
differences, what a setting changes here more than it changes the policy that these weights were trained from
(`counterpart`): points of accuracy, a ratio of ratios of TPF.

Intervals are 95 %, over problems, which all systems of a benchmark share. Shapes: T thresholds, R replicates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from lightningrl.evaluation.aup import MAX_DROP_POINTS, aup_anchored, aup_replicates, first_accuracy_replicates
from lightningrl.evaluation.intervals import triple, with_interval
from lightningrl.report.frontier import Group

ABOUT = ("weights", "setting", "exact", "counterpart", "quantizer", "bits", "activation_bits", "kv_bits", "calibration")
"""Columns that `config.counterparts` explains."""
SUMMARY = (
    "n_problems", *triple("accuracy_pct"), *triple("tpf"), "tpf_true", "tpf_paper", "tpf_harness", "tpf_rounds_mean",
    "forwards_per_problem", "response_tokens_mean", "truncated_pct",
)  # fmt: skip
"""Columns that are those of `frontier.csv`."""
COMPARED: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("accuracy_difference", "accuracy_pct", np.subtract),
    ("tpf_ratio", "tpf", np.divide),
    ("response_tokens_difference", "response_tokens_mean", np.subtract),
)
"""Column, the number that it compares, and how."""
COLUMNS = (
    "policy", "role", "benchmark", "threshold", "is_primary", *ABOUT, "options", "effective_bits", *SUMMARY,
    *(column for name, *_ in COMPARED for column in triple(name)),
    *(column for name, *_ in COMPARED for column in triple(f"{name}_to_primary")),
    *(column for name, *_ in COMPARED for column in triple(f"{name}_beyond")),
    *triple("aup"), *triple("aup_difference"), *triple("aup_difference_beyond"),
)  # fmt: skip
"""AUP is of a whole curve: it stands in the row of the primary threshold and is NaN in the others."""
Sampled = tuple[float, np.ndarray]
"""A number, and [R] its replicates."""


def quantized(
    groups: Iterable[Group], frontier: pd.DataFrame, about: Mapping[str, Mapping[str, Any]],
    effective_bits: Mapping[str, float], options: Mapping[str, str] = MappingProxyType({}),
) -> pd.DataFrame:  # fmt: skip
    """Returns `COLUMNS`, in the order of the evaluations; empty where no system is quantised.

    frontier: of the same groups. about: of each system that belongs here (`config.counterparts`). effective_bits: of
    the systems whose weights have codes. options: those of each quantizer that are said, as JSON.
    """
    rows = list[dict[str, Any]]()
    known = frontier.set_index(["policy", "benchmark", "threshold"])
    for group in groups:
        here = {name: each for name, each in about.items() if name in group.sums}
        for policy in (policy for policy in group.evaluations if policy in here):
            compared = _Compared(group, here, policy)
            for t, threshold in enumerate(group.sums[policy].thresholds):
                row = {
                    "policy": policy, "role": group.evaluations[policy].role, "benchmark": group.benchmark,
                    "threshold": threshold, "is_primary": t == group.primary(policy),
                    **{key: here[policy][key] for key in ABOUT}, "options": options.get(policy, ""),
                    "effective_bits": effective_bits.get(policy, np.nan),
                }  # fmt: skip
                row |= {name: known.loc[(policy, group.benchmark, threshold), name] for name in SUMMARY}
                rows.append(row | compared.row(t))
    return pd.DataFrame(rows, columns=list(COLUMNS))


class _Compared:
    """A system's numbers against those of its float weights, and both against those of what they were trained from."""

    def __init__(self, group: Group, about: Mapping[str, Mapping[str, Any]], policy: str) -> None:
        self.group, self.policy = group, policy
        self.exact = about[policy]["exact"] if about[policy]["exact"] in group.sums else ""
        other = about[policy]["counterpart"]
        beyond = other in about and self.exact and about[other]["exact"] in group.sums
        self.other = (other, about[other]["exact"]) if beyond else None

    def row(self, t: int) -> dict[str, float]:
        """Returns the columns of a threshold."""
        row, group, policy = dict[str, float](), self.group, self.policy
        threshold, is_primary = group.sums[policy].thresholds[t], t == group.primary(policy)
        if not self.exact:
            return row
        for column, number, compare in COMPARED:
            mine = _at(group, policy, number, t)
            primary = group.primary(self.exact)
            row |= _told(f"{column}_to_primary", _compared(compare, mine, _at(group, self.exact, number, primary)))
            if (own := self._change(policy, self.exact, threshold, number, compare)) is None:
                continue
            row |= _told(column, own)
            if self.other is None:
                continue
            others = self._change(*self.other, threshold, number, compare)
            if others is not None and policy != self.exact:
                row |= _told(f"{column}_beyond", _compared(compare, own, others))
        counted = all(group.counts(each) for each in (policy, self.exact, *(self.other or ())))
        if is_primary and counted:  # choices by likelihood are not decoded
            row |= _told("aup", self._area(policy, self.exact))
            sweeps = {tuple(group.sums[each].thresholds) for each in (policy, self.exact)}
            if len(sweeps) > 1:
                return row
            own = _compared(np.subtract, self._area(policy, self.exact), self._area(self.exact, self.exact))
            row |= _told("aup_difference", own)
            sweeps |= {tuple(group.sums[each].thresholds) for each in self.other or ()}
            if self.other is not None and policy != self.exact and len(sweeps) == 1:
                theirs = (self._area(each, self.other[1]) for each in self.other)
                row |= _told("aup_difference_beyond", _compared(np.subtract, own, _compared(np.subtract, *theirs)))
        return row

    def _change(
        self, policy: str, exact: str, threshold: float, number: str, compare: Callable[..., Any]
    ) -> Sampled | None:  # fmt: skip
        """Returns a number against the float system's at a threshold; None where one of them has no such threshold."""
        places = [self.group.sums[each].thresholds for each in (policy, exact)]
        if any(threshold not in each for each in places):
            return None
        mine, other = (
            _at(self.group, each, number, place.index(threshold))
            for each, place in zip((policy, exact), places, strict=True)
        )
        return _compared(compare, mine, other)

    def _area(self, policy: str, exact: str) -> Sampled:
        """Returns the AUP on the axis of a float system."""
        group = self.group
        y_max = max(accuracy for _, accuracy in group.sums[exact].points())
        y_min_R = first_accuracy_replicates(*group.curves[exact]) - MAX_DROP_POINTS
        value = aup_anchored(group.sums[policy].points(), group.y_min(exact), y_max)
        return value, aup_replicates(*group.curves[policy], y_max, y_min_R)


def _at(group: Group, policy: str, number: str, t: int) -> Sampled:
    value_T, drawn_RT = group.numbers[policy][number]
    return float(value_T[t]), drawn_RT[:, t]


def _compared(compare: Callable[..., Any], mine: Sampled, other: Sampled) -> Sampled:
    return float(compare(mine[0], other[0])), compare(mine[1], other[1])


def _told(column: str, found: Sampled) -> dict[str, float]:
    return with_interval(column, *found)
