"""A response ends with the block in which it has a stop token; the rest of that block is still revealed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class FinishBlock:
    """The paper's rule: its forwards count what fills the block after the stop token."""

    def ended(self, stop_BK: np.ndarray, masked_BK: np.ndarray) -> np.ndarray:
        """(B,) bool. stop_BK: revealed response positions that hold a stop token; masked_BK: positions still masked."""
        return np.any(stop_BK, axis=1) & ~np.any(masked_BK, axis=1)
