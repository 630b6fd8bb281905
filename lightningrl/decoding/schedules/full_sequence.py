"""LLaDA's schedules: a canvas of fixed length, all of it in sight, denoised block by block from the prompt's end.

The masks of later blocks are context too, so the canvas is as long as the response may be from the first forward on.
`FullSequence` computes all of it in every forward and keeps nothing (Nie et al., arXiv 2502.09992; with `block_size` as
long as the response it has one block; `WholeSequence` always has: Dream, arXiv 2508.15487). The other two are Fast-dLLM
v1's (Wu et al., arXiv 2505.22618): the first forward of a block computes the whole canvas, later ones a part of it,
over keys and values that were right when they were written and are stale since: under full attention they depend on
every token that was revealed meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightningrl.decoding.canvas import Canvas, Interval, Progress, Schedule
from lightningrl.errors import DecodeError


@dataclass(frozen=True, slots=True)
class FullSequence(Schedule):
    """Every masked position of the active block is open; every position of the canvas is a query.

    block_size: None is the model's. least_forwards: the denoise forwards that every block has at least, whether they
    reveal anything or not: the published LLaDA runs all its steps when they are more than the block has positions.
    """

    block_size: int | None = None
    least_forwards: int = 1

    keeps_blocks = False
    fills_canvas = True

    def __post_init__(self) -> None:
        for name, value in (("block_size", self.block_size), ("least_forwards", self.least_forwards)):
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise DecodeError(f"{type(self).__name__}: {name} is {value!r}, expected a whole number of 1 or more")

    def canvas(self, prompt_len: int, max_new_tokens: int, size: int) -> Canvas:
        return Canvas(origin=prompt_len, start=prompt_len, end=prompt_len + -(-max_new_tokens // size) * size)

    def reach(self, start: int, end: int, size: int) -> int:
        return end

    def interval(self, at: Progress, size: int) -> Interval:
        return Interval(np.zeros_like(at.start_B), at.end_B, np.ones_like(at.pending_B))


@dataclass(frozen=True, slots=True)
class WholeSequence(FullSequence):
    """The response is one block, of any length: every masked position is open in every forward."""

    is_whole = True

    def __post_init__(self) -> None:
        super(WholeSequence, self).__post_init__()
        if self.block_size is not None:
            raise DecodeError("WholeSequence: its one block is as long as the response, so it takes no block_size")

    def size(self, max_new_tokens: int, model_size: int) -> int:
        return max_new_tokens


@dataclass(frozen=True, slots=True)
class PrefixCache(FullSequence):
    """After a block's first forward, the block and all behind it are computed; what lies before it is kept.

    refresh_every: so many forwards of a block lie between two over the whole canvas; 0: only the first is one.
    least_forwards: 2 is the June 2025 code, where a block that is finished by its first forward has one more.
    opens_first: a block's first forward opens its first position alone, as Fast-dLLM does on Dream: with shifted logits
    later forwards then never need those of the position before the block, which they do not compute.
    most_forwards: the forwards after which a block is left, masks and all, for comparisons with the published code.
    """

    refresh_every: int = 0
    opens_first: bool = False
    most_forwards: int | None = None

    is_exact = False

    @property
    def knows_first(self) -> bool:
        return self.opens_first

    def open(self, masked_BK: np.ndarray) -> np.ndarray:
        is_first_K = np.arange(masked_BK.shape[1]) == 0
        return masked_BK & (is_first_K | ~masked_BK[:, :1] | (not self.opens_first))

    def __post_init__(self) -> None:
        super(PrefixCache, self).__post_init__()
        if not (isinstance(self.refresh_every, int) and self.refresh_every >= 0):
            raise DecodeError(f"{type(self).__name__}: refresh_every is {self.refresh_every!r}, expected 0 or more")

    def interval(self, at: Progress, size: int) -> Interval:
        full_B = (at.step_B % self.refresh_every if self.refresh_every else at.step_B) == 0
        full_B |= self.opens_first & at.masked_BK[:, 0]  # a selector may wait
        first_B, last_B = np.where(full_B, 0, at.start_B), np.where(full_B, at.end_B, self.last(at, size))
        return Interval(first_B, last_B, np.ones_like(at.pending_B), full_B)

    def last(self, at: Progress, size: int) -> np.ndarray:
        """(B,) one past the last position of a forward that does not compute the whole canvas."""
        return at.end_B


@dataclass(frozen=True, slots=True)
class DualCache(PrefixCache):
    """After a block's first forward, the block alone is computed; what lies before and behind it is kept."""

    def last(self, at: Progress, size: int) -> np.ndarray:
        return at.start_B + size
