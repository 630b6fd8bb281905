"""Every masked position of the active block may be revealed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Block:
    """Block(K): SDAR's scope."""

    def open(self, masked_BK: np.ndarray) -> np.ndarray:
        """(B, K) bool, a subset of masked_BK, not empty where masked_BK is not."""
        return masked_BK
