"""Fast-dLLM v2's schedule (Wu et al., arXiv 2509.26328): blocks in sub-blocks, and commits that reveal a token.

A forward computes the active block, over the kept keys and values of all blocks before it; positions are revealed in
its first sub-block with masks alone. The finished block is computed once more, clean, and the logits at its last
position predict the first token of the next block: no commit without a token. So does the prefill of a prompt that
ends on the grid; else the prompt's rest opens the first block. A block's first position is thus always known while the
block is denoised, and no forward has to begin before the block for the sake of shifted logits.

Shapes: B rows; K positions of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightningrl.decoding.canvas import Canvas, Interval, Progress, Schedule
from lightningrl.errors import DecodeError


@dataclass(frozen=True, slots=True)
class SubBlocks(Schedule):
    """Sub-blocks of `sub_block` positions from left to right, each until it has no mask.

    caches_block: a forward computes the sub-block alone, over the kept keys and values of the whole block, once the
    sub-block's first position is known and a forward has computed the block; those of the other sub-blocks are then
    stale. compat: the published length, max_new_tokens // K blocks from the one with the prompt's end on and the token
    that the last block's commit predicts; otherwise as many blocks as hold max_new_tokens, and no commit of the last.
    """

    sub_block: int = 8
    caches_block: bool = False
    compat: bool = False

    is_productive = True

    def __post_init__(self) -> None:
        if not (isinstance(self.sub_block, int) and self.sub_block >= 1):
            raise DecodeError(f"SubBlocks: sub_block is {self.sub_block!r}, expected a whole number of 1 or more")

    @property
    def is_exact(self) -> bool:
        return not self.caches_block

    def check(self, size: int) -> None:
        if size % self.sub_block:
            raise DecodeError(
                f"SubBlocks: sub_block is {self.sub_block}, which does not divide the model's blocks of {size} "
                f"positions"
            )

    def canvas(self, prompt_len: int, max_new_tokens: int, size: int) -> Canvas:
        usual = super(SubBlocks, self).canvas(prompt_len, max_new_tokens, size)
        blocks = max(1, max_new_tokens // size)
        return usual._replace(end=usual.start + blocks * size + 1) if self.compat else usual

    def reach(self, start: int, end: int, size: int) -> int:
        return min(start + size, end)

    def interval(self, at: Progress, size: int) -> Interval:
        """The finished block where one is pending, else the active block or its sub-block. (The position before the
        block alone, where its prediction was not taken as it was computed.)"""
        is_first_B, whole_B = at.masked_BK[:, 0], np.ones_like(at.pending_B)
        begin_B = np.argmax(at.masked_BK, axis=1) // self.sub_block * self.sub_block
        if self.caches_block:
            whole_B = (at.step_B == 0) | at.masked_BK[np.arange(len(begin_B)), begin_B]
        first_B = np.where(whole_B, at.start_B, at.start_B + begin_B)
        last_B = np.where(whole_B, at.start_B + size, at.start_B + begin_B + self.sub_block)
        before_B = np.where(at.pending_B, at.start_B - size, at.start_B - 1)
        first_B, last_B = np.where(is_first_B, before_B, first_B), np.where(is_first_B, at.start_B, last_B)
        refreshes_B = whole_B & ~is_first_B if self.caches_block else None
        return Interval(first_B, last_B, np.ones_like(at.pending_B), refreshes_B)

    def open(self, masked_BK: np.ndarray) -> np.ndarray:
        sub_K = np.arange(masked_BK.shape[1]) // self.sub_block
        is_here_BK = sub_K == np.argmax(masked_BK, axis=1)[:, None] // self.sub_block
        is_first_BK = np.arange(masked_BK.shape[1]) == np.zeros((len(masked_BK), 1))
        return masked_BK & np.where(masked_BK[:, :1], is_first_BK, is_here_BK)
