"""LLaDA's schedule: a canvas of fixed length, all of it computed in every forward, denoised block by block.

The blocks are counted from the prompt's end, and the masks of later blocks are context too, so the canvas is as long as
the response may be from the first forward on. Nothing is kept from one forward to the next. (Nie et al., arXiv
2502.09992; with `block_size` as long as the response it has one block.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightningrl.decoding.canvas import Canvas, Interval, Schedule
from lightningrl.errors import DecodeError


@dataclass(frozen=True, slots=True)
class FullSequence(Schedule):
    """Every masked position of the active block is open; every position of the canvas is a query."""

    block_size: int = 32

    keeps_blocks = False
    fills_canvas = True

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise DecodeError(f"full_sequence: block_size is {self.block_size}, expected 1 or more")

    def canvas(self, prompt_len: int, max_new_tokens: int, size: int) -> Canvas:
        return Canvas(origin=prompt_len, start=prompt_len, end=prompt_len + -(-max_new_tokens // size) * size)

    def reach(self, start: int, end: int, size: int) -> int:
        return end

    def interval(self, start_B: np.ndarray, pending_B: np.ndarray, end_B: np.ndarray, size: int) -> Interval:
        return Interval(np.zeros_like(start_B), end_B, np.ones_like(pending_B))
