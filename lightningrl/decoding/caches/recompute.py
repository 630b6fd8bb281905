"""No cache: every forward recomputes the prompt and all blocks so far. For comparison and tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Recompute:
    """Each denoise forward has every position up to the end of the active block as a query."""

    keeps_blocks = False

    def spans(self, start_B: np.ndarray, pending_B: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """As FusedCommit.spans."""
        return np.zeros_like(start_B), np.ones_like(pending_B)
