"""Normalisations of rewards into advantages, and the collapse ratio. Arrays, no torch.

Shapes: (N, G): N groups (prompts) of G responses.
"""

from __future__ import annotations

import numpy as np

EPSILON = 1e-8


def group_z_score(values_NG: np.ndarray) -> np.ndarray:
    """(value - mean) / std inside each group, population std; all 0 where the group is constant.

    Constant: std <= 1e-6 max(1, |mean|), so that equal values with rounding noise do not become +-1 (Eq. 5).
    """
    mean_N1 = values_NG.mean(axis=1, keepdims=True)
    std_N1 = values_NG.std(axis=1, keepdims=True)
    constant_N1 = std_N1 <= 1e-6 * np.maximum(1.0, np.abs(mean_N1))
    return np.where(constant_N1, 0.0, (values_NG - mean_N1) / np.where(constant_N1, 1.0, std_N1))


def group_minmax(values_NG: np.ndarray) -> np.ndarray:
    """(value - min) / (max - min) inside each group; all 0.5 where it is constant, to rounding (published code)."""
    low_N1 = values_NG.min(axis=1, keepdims=True)
    range_N1 = values_NG.max(axis=1, keepdims=True) - low_N1
    constant_N1 = range_N1 <= 1e-6 * np.maximum(1.0, np.abs(low_N1))
    return np.where(constant_N1, 0.5, (values_NG - low_N1) / np.where(constant_N1, 1.0, range_N1))


def normalise_group(values_NG: np.ndarray) -> np.ndarray:
    """(value - mean) / (std + 1e-8) inside each group, unbiased std (Eq. 2)."""
    mean_N1 = values_NG.mean(axis=1, keepdims=True)
    return (values_NG - mean_N1) / (values_NG.std(axis=1, ddof=1, keepdims=True) + EPSILON)


def normalise_batch(values_NG: np.ndarray) -> np.ndarray:
    """(value - mean) / (std + 1e-8) over the whole batch, unbiased std (Eq. 7)."""
    return (values_NG - values_NG.mean()) / (values_NG.std(ddof=1) + EPSILON)


def centre_group(values_NG: np.ndarray) -> np.ndarray:
    """value - mean inside each group."""
    return values_NG - values_NG.mean(axis=1, keepdims=True)


def unchanged(values_NG: np.ndarray) -> np.ndarray:
    return values_NG


NORMALISATIONS = {"none": unchanged, "center": centre_group, "group": normalise_group, "batch": normalise_batch}
"""What the summed reward of an update's groups becomes, by the name in `method.advantage`."""


def collapse_ratio(advantage_NG: np.ndarray, eps: float) -> float:
    """Share of the pairs i < j of a group whose advantages differ by less than eps, over all groups."""
    upper = np.triu_indices(advantage_NG.shape[1], k=1)
    gap_NP = np.abs(advantage_NG[:, upper[0]] - advantage_NG[:, upper[1]])
    return float((gap_NP < eps).mean())
