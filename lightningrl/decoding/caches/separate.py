"""A finished block's clean keys and values are written by a forward of their own, as the published engines do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class SeparateCommit:
    """One forward a block that reveals nothing. The last block is not committed: nothing would read it."""

    keeps_blocks = True

    def spans(self, start_B: np.ndarray, pending_B: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """As FusedCommit.spans."""
        return start_B - size * pending_B, ~pending_B
