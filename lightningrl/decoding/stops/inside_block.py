"""A response ends as soon as a stop token and everything to its left are revealed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class InsideBlock:
    """Saves the forwards that only fill the block after the stop token; positions there may stay masked."""

    def ended(self, stop_BK: np.ndarray, masked_BK: np.ndarray) -> np.ndarray:
        """As FinishBlock.ended."""
        masked_before_BK = np.logical_or.accumulate(masked_BK, axis=1)
        return np.any(stop_BK & ~masked_before_BK, axis=1)
