"""The forward that writes a finished block's clean keys and values also denoises the next block for the first time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class FusedCommit:
    """2K queries once a block, no forward that only commits: tokens per forward are what they say."""

    keeps_blocks = True
    """Whether later forwards read the keys and values of finished blocks: the prompt's are then written when a row
    enters, those of a decoded block are pending until a forward has written them."""

    def spans(self, start_B: np.ndarray, pending_B: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """First position of each row's forward, and whether the forward denoises the active block.

        start_B: first position of the active block; pending_B: the block before it is finished but its clean keys and
        values are not written; size: K. A forward that denoises ends with the active block, one that does not ends
        before it.
        """
        return start_B - size * pending_B, np.ones_like(pending_B)
