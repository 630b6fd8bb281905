"""An estimate with its 95 % interval as three columns of a row: `name`, `name_low`, `name_high`."""

from __future__ import annotations

import numpy as np

from lightningrl.evaluation.intervals import percentile_interval


def triple(name: str) -> tuple[str, str, str]:
    """Returns the names of the three columns."""
    return name, f"{name}_low", f"{name}_high"


def with_interval(name: str, value: float, replicates_R: np.ndarray) -> dict[str, float]:
    """Returns the value, and the 2.5 % and 97.5 % quantiles of its bootstrap replicates."""
    low, high = percentile_interval(replicates_R)
    return dict(zip(triple(name), (float(value), low, high), strict=True))


def blank(name: str) -> dict[str, float]:
    """Returns NaN three times, for a number that does not apply or is not known."""
    return dict.fromkeys(triple(name), float("nan"))
