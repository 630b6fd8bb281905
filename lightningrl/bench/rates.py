"""The 95 % interval of tokens a second, from repetitions of the same batches. No torch.

Shapes: R repetitions, B batches.
"""

from __future__ import annotations

import numpy as np

REPLICATES = 2000


def rate_interval(tokens_RB: np.ndarray, seconds_RB: np.ndarray, seed: int) -> tuple[float, float]:
    """Returns the interval of tokens per second: batches are resampled, each from a resampled repetition.

    >>> rate_interval(np.array([[10, 10]]), np.array([[2.0, 2.0]]), 0)
    (5.0, 5.0)
    """
    rng = np.random.default_rng(seed)
    repeats, batches = tokens_RB.shape
    shape = REPLICATES, batches
    drawn = rng.integers(0, repeats, shape), rng.integers(0, batches, shape)
    low, high = np.quantile(tokens_RB[drawn].sum(axis=1) / seconds_RB[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)
