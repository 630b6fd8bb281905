"""Which groups are worth an update: the TPF-aware filter."""

from __future__ import annotations

import numpy as np


def keep_groups(tpf_NG: np.ndarray, correct_NG: np.ndarray, min_tpf_range: float, drop_all_wrong: bool) -> np.ndarray:
    """(N,) bool: groups whose TPF spread (max - min) is at least `min_tpf_range` and, if asked, with a correct one."""
    failed = failed_filters(tpf_NG, correct_NG, min_tpf_range, drop_all_wrong)
    return ~np.logical_or.reduce(list(failed.values()))


def failed_filters(
    tpf_NG: np.ndarray, correct_NG: np.ndarray, min_tpf_range: float, drop_all_wrong: bool
) -> dict[str, np.ndarray]:
    """By the filter's key in the config, (N,) bool: which groups it drops. A group may fail more than one."""
    return {
        "filter_tpf_range": np.asarray(tpf_NG.max(axis=1) - tpf_NG.min(axis=1) < min_tpf_range),
        "filter_all_wrong": np.asarray(~correct_NG.any(axis=1) & drop_all_wrong),
    }
