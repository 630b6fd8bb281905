"""AUP: accuracy under parallelism, the area under accuracy against TPF (as the d3LLM leaderboard defines it).

`aup` is the published number; `aup_anchored` is the one that our claims use. With f(y) = y W(y) and
W(y) = min(exp(-3 (1 - y / y_max)), 1), over the points kept, sorted by TPF rho:

    aup           rho_1 y_1    + sum_{i>=2} (rho_i - rho_{i-1}) (f(y_i) + f(y_{i-1})) / 2,   kept: y >= y_1 - 5
    aup_anchored  rho_1 f(y_1) + the same sum,                                               kept: y >= y_min

Accuracies are in percent. Values compare only under one y_max (and, anchored, one y_min): print both beside them.
A dropped point inside a curve is bridged over, as published: the guarantee that a curve cannot gain by losing the
same accuracy everywhere holds for curves whose accuracy does not rise with TPF.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

ALPHA = 3.0
"""Steepness of W, as published."""
MAX_DROP_POINTS = 5.0
"""Points more than this many percentage points below the first accuracy are dropped."""
ROUNDING = 1e-9
"""Percentage points: accuracies are shares of whole numbers, one exactly at the limit must not fall by a last bit."""

Point = tuple[float, float]
"""(TPF, accuracy in percent)."""


def weight(accuracy_pct: float, y_max: float) -> float:
    """Returns W(y) in 0..1, which is 1 from y_max up.

    With y_max = 0 nothing was ever right, and every weight is 1 (the area is 0).
    """
    return 1.0 if y_max <= 0 else min(math.exp(-ALPHA * (1.0 - accuracy_pct / y_max)), 1.0)


def sort_points(points: Iterable[Point]) -> list[Point]:
    """Returns the points by rising TPF, at equal TPF the better accuracy first: input order never matters.

    Raises ValueError when there is no point, a number is not finite, or an accuracy is outside 0..100.
    """
    kept = sorted(((float(tpf), float(accuracy)) for tpf, accuracy in points), key=lambda point: (point[0], -point[1]))
    if not kept:
        raise ValueError("AUP needs at least one (tpf, accuracy_pct) point; found none")
    for tpf, accuracy in kept:
        if not (math.isfinite(tpf) and tpf > 0 and 0.0 <= accuracy <= 100.0):
            raise ValueError(f"AUP points are (tpf > 0, accuracy in percent 0..100); found ({tpf}, {accuracy})")
    return kept


def first_accuracy(points: Iterable[Point]) -> float:
    """Returns y_1, percent: the accuracy at the smallest TPF. The base's y_1 - 5 is the y_min of `aup_anchored`."""
    return sort_points(points)[0][1]


def first_accuracy_replicates(tpf_RT: np.ndarray, accuracy_RT: np.ndarray) -> np.ndarray:
    """Returns [R] `first_accuracy` of R curves at once."""
    first_R1 = np.lexsort((-accuracy_RT, tpf_RT), axis=-1)[:, :1]
    return np.take_along_axis(accuracy_RT, first_R1, axis=-1)[:, 0]


def aup(points: Iterable[Point], y_max: float) -> float:
    """Returns the published AUP; `y_max` is in percent. Points too far below y_1 are dropped, the last one too."""
    ordered = sort_points(points)
    y_1 = ordered[0][1]
    kept = [point for point in ordered if point[1] >= y_1 - MAX_DROP_POINTS - ROUNDING]
    return kept[0][0] * y_1 + _trapezoids(kept, y_max)


def aup_anchored(points: Iterable[Point], y_min: float, y_max: float) -> float:
    """Returns the AUP that compares a model with what it was trained from: one y_min, one y_max, all area weighted.

    `y_min` is the base's y_1 - 5 for every curve compared. A curve with no point at or above it scores 0.
    """
    kept = [point for point in sort_points(points) if point[1] >= y_min - ROUNDING]
    if not kept:
        return 0.0
    tpf_1, y_1 = kept[0]
    return tpf_1 * y_1 * weight(y_1, y_max) + _trapezoids(kept, y_max)


def _trapezoids(kept: list[Point], y_max: float) -> float:
    value = [y * weight(y, y_max) for _, y in kept]
    return sum(0.5 * (kept[i][0] - kept[i - 1][0]) * (value[i] + value[i - 1]) for i in range(1, len(kept)))


def aup_replicates(
    tpf_RT: np.ndarray, accuracy_RT: np.ndarray, y_max: float, y_min_R: np.ndarray | float | None = None
) -> np.ndarray:
    """Returns [R] the AUP of R curves of T points each: `aup`, or `aup_anchored` where there is a `y_min_R`.

    Its values equal those of the scalar functions row by row (tested); it makes bootstrap intervals cheap.
    """
    order_RT = np.lexsort((-accuracy_RT, tpf_RT), axis=-1)
    tpf_RT = np.take_along_axis(tpf_RT, order_RT, axis=-1)
    y_RT = np.take_along_axis(accuracy_RT, order_RT, axis=-1)
    weight_RT = np.minimum(np.exp(-ALPHA * (1.0 - y_RT / y_max)), 1.0) if y_max > 0 else np.ones_like(y_RT)
    value_RT = y_RT * weight_RT
    anchored = y_min_R is not None
    lowest_R = np.broadcast_to(y_min_R if anchored else y_RT[:, 0] - MAX_DROP_POINTS, len(y_RT))
    keep_RT = y_RT >= np.asarray(lowest_R)[:, None] - ROUNDING
    area_R = np.zeros(len(y_RT))
    last_tpf_R, last_value_R = np.zeros(len(y_RT)), np.full(len(y_RT), np.nan)
    for tpf_R, y_R, value_R, keep_R in zip(tpf_RT.T, y_RT.T, value_RT.T, keep_RT.T, strict=True):
        rectangle_R = tpf_R * (value_R if anchored else y_R)
        trapezoid_R = 0.5 * (tpf_R - last_tpf_R) * (value_R + last_value_R)
        area_R = area_R + np.where(keep_R, np.where(np.isnan(last_value_R), rectangle_R, trapezoid_R), 0.0)
        last_tpf_R = np.where(keep_R, tpf_R, last_tpf_R)
        last_value_R = np.where(keep_R, value_R, last_value_R)
    return area_R
