"""Tokens a second from repetitions of the same batches: the 95 % interval, and the row that a stage writes. No torch.

Shapes: R repetitions, B batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

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


class Rates(Protocol):
    """What was measured, of a decoder here or of a server."""

    def interval(self, seed: int) -> tuple[float, float]: ...

    def figures(self) -> dict[str, Any]: ...


def speed_row(config: Mapping[str, Any], prompts: int, found: Rates) -> dict[str, Any]:
    """Returns the columns that every speed.json has: what was measured, how often, and what came of it.

    config: a speed stage's; prompts: how many there were, of which at most `speed.warmup` warmed up.
    """
    speed, (low, high) = config["speed"], found.interval(config["seed"])
    return {
        **{key: config[key] for key in ("policy", "benchmark", "threshold", "temperature", "max_new_tokens")},
        "prompts": prompts,
        "warmup_prompts": min(speed["warmup"], prompts),
        "batch": speed["batch"],
        "repeats": speed["repeats"],
        "prefill_included": True,
        **found.figures(),
        "tokens_per_second_low": low,
        "tokens_per_second_high": high,
    }
