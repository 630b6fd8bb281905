"""Which groups are worth an update: the TPF-aware filter, and TraceRL's on accuracy."""

from __future__ import annotations

import numpy as np

from lightningrl.config.method import Method
from lightningrl.rl.groups import Groups


def keep_groups(method: Method, groups: Groups) -> np.ndarray:
    """(N,) bool: groups that no filter drops."""
    return ~np.logical_or.reduce(list(failed_filters(method, groups).values()))


def failed_filters(method: Method, groups: Groups) -> dict[str, np.ndarray]:
    """By the filter's key in the config, (N,) bool: which groups it drops. A group may fail more than one.

    The TPF spread (max - min) must reach its limit, the share of correct responses lie within its bounds.
    """
    tpf_NG, correct_NG = groups.tpf_NG, groups.correct_NG
    (low, high), share_N = method.filter_accuracy, correct_NG.mean(axis=1)
    return {
        "filter_tpf_range": np.asarray(tpf_NG.max(axis=1) - tpf_NG.min(axis=1) < method.filter_tpf_range),
        "filter_all_wrong": np.asarray(~groups.is_any_right_N & method.filter_all_wrong),
        "filter_accuracy": np.asarray((share_N < low) | (share_N > high)),
    }
