"""Stop rules: when a stop token ends the response.

All are asked after each forward, of the active block, and answer (B,) bool. stop_BK: response positions that are
revealed and hold a stop token; masked_BK: positions that are still masked. Shapes: B rows; K positions of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class FinishBlock:
    """The response ends with the block that holds its stop token, and what follows in the block is still revealed.

    This is the paper's rule: its forwards count what fills the block.
    """

    def ended(self, stop_BK: np.ndarray, masked_BK: np.ndarray) -> np.ndarray:
        return np.any(stop_BK, axis=1) & ~np.any(masked_BK, axis=1)


@dataclass(frozen=True, slots=True)
class FinishBlockBehindCommits(FinishBlock):
    """As `FinishBlock`, but a stop token at a block's first position ends nothing: for comparisons with Fast-dLLM v2's
    evaluation (`batch_sample`), which does not look at the token that a commit predicts."""

    def ended(self, stop_BK: np.ndarray, masked_BK: np.ndarray) -> np.ndarray:
        return np.any(stop_BK[:, 1:], axis=1) & ~np.any(masked_BK, axis=1)


@dataclass(frozen=True, slots=True)
class InsideBlock:
    """The response ends as soon as a stop token and everything to its left are revealed.

    This saves the forwards that only fill the block; positions behind the stop token may stay masked.
    """

    def ended(self, stop_BK: np.ndarray, masked_BK: np.ndarray) -> np.ndarray:
        masked_before_BK = np.logical_or.accumulate(masked_BK, axis=1)
        return np.any(stop_BK & ~masked_before_BK, axis=1)


@dataclass(frozen=True, slots=True)
class WholeCanvas:
    """No stop token ends anything: all blocks are decoded, and the response is cut at its first stop token afterwards.

    This is how the published decoders of canvases work: forwards spent behind the stop token count.
    """

    def ended(self, stop_BK: np.ndarray, masked_BK: np.ndarray) -> np.ndarray:
        return np.zeros(len(stop_BK), dtype=bool)
