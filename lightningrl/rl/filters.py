"""Which groups are worth an update: the TPF-aware filter, and TraceRL's on accuracy."""

from __future__ import annotations

import numpy as np

from lightningrl.config.method import Method
from lightningrl.rl.groups import Groups


def keep_groups(method: Method, groups: Groups) -> np.ndarray:
    """(N,) bool: groups whose TPF spread (max - min) and share of correct responses are as the method wants them."""
    tpf_NG, correct_NG = groups.tpf_NG, groups.correct_NG
    kept_N = tpf_NG.max(axis=1) - tpf_NG.min(axis=1) >= method.filter_tpf_range
    low, high = method.filter_accuracy
    share_N = correct_NG.mean(axis=1)
    kept_N &= (low <= share_N) & (share_N <= high)
    return kept_N & correct_NG.any(axis=1) if method.filter_all_wrong else kept_N
