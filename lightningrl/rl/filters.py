"""Which groups are worth an update: the TPF-aware filter."""

from __future__ import annotations

import numpy as np


def keep_groups(tpf_NG: np.ndarray, correct_NG: np.ndarray, min_tpf_range: float, drop_all_wrong: bool) -> np.ndarray:
    """(N,) bool: groups whose TPF spread (max - min) is at least `min_tpf_range` and, if asked, with a correct one."""
    kept_N = tpf_NG.max(axis=1) - tpf_NG.min(axis=1) >= min_tpf_range
    return kept_N & correct_NG.any(axis=1) if drop_all_wrong else kept_N
