"""What distinguishes one policy-gradient algorithm from another: its advantages and its NLL set."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Algorithm(Protocol):
    """Pure functions of one update's rewards; arrays (N groups, G responses)."""

    def advantages(self, accuracy_NG: np.ndarray, tpf_NG: np.ndarray) -> np.ndarray:
        """(N, G): over the groups of one optimiser update."""
        ...

    def nll_set(self, correct_NG: np.ndarray) -> np.ndarray:
        """(N, G) bool: the trajectories whose NLL is trained."""
        ...
