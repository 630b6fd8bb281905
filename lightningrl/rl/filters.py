"""Which groups are worth an update: the TPF-aware filter, and TraceRL's on accuracy."""

from __future__ import annotations

import numpy as np

from lightningrl.rl.groups import Groups


def failed_filters(
    groups: Groups, tpf_range: float, drops_all_wrong: bool, accuracy: tuple[float, float]
) -> dict[str, np.ndarray]:
    """(N,) bool by the filter's key in the config: the groups that it drops. A group may fail more than one.

    The TPF spread (max - min) must reach `tpf_range`, and the share of correct responses lie within `accuracy`.
    """
    tpf_NG, (low, high), share_N = groups.tpf_NG, accuracy, groups.correct_NG.mean(axis=1)
    return {
        "filter_tpf_range": np.asarray(tpf_NG.max(axis=1) - tpf_NG.min(axis=1) < tpf_range),
        "filter_all_wrong": np.asarray(~groups.is_any_right_N & drops_all_wrong),
        "filter_accuracy": np.asarray((share_N < low) | (share_N > high)),
    }
