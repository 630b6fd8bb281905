"""How a response is walked: where it lies, which of its positions a forward computes, and on what pages.

Shapes: B rows; K positions of a block.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SMALLEST_PAGE_TOKENS = 16


def page_size(block_size: int, at_least: int = SMALLEST_PAGE_TOKENS) -> int:
    """The positions of a page: as few blocks as have `at_least` positions.

    >>> page_size(4), page_size(24)
    (16, 24)
    """
    return block_size * -(-at_least // block_size)


class Canvas(NamedTuple):
    """The positions of one prompt and its response, counted from the first prompt token."""

    origin: int
    """Where the grid of blocks begins: 0, or the prompt's end."""
    start: int
    """First position of the first block that is decoded; it may hold prompt tokens."""
    end: int
    """One past the last position that may be decoded, on the grid."""


class Interval(NamedTuple):
    """What one forward does for each of its rows: the positions it computes and whether it denoises.

    Where the model's logits are shifted (`ModelConfig.logit_shift`), the decoder lets a denoise forward begin one
    position before the active block at the latest: there the block's first position is predicted.
    """

    first_B: np.ndarray
    """First position computed."""
    last_B: np.ndarray
    """One past the last position computed."""
    denoises_B: np.ndarray
    """bool: positions of the active block, all of which are then computed, may be revealed."""


class Schedule:
    """How a response is walked, over a grid of blocks, one of which is active at a time; by default SDAR's way.

    How far a position sees is the model's own (`models.attention.key_limits`); a forward's positions see what it
    computes and what earlier forwards have left in the cache.
    """

    block_size: int | None = None
    """K, positions of a block; None: the model's."""
    keeps_blocks = True
    """Whether later forwards read the keys and values of finished blocks. Those of the prompt are then written when a
    row enters; a decoded block is pending when it is finished, until a forward has computed it clean."""
    fills_canvas = False
    """Whether every position of the canvas, later masks too, has keys and values when it is attended to: what a model
    with full attention needs."""
    computes_active = True
    """Whether forwards that denoise compute the active block itself. False: they end before it, at the position whose
    logits predict it, for causal models with shifted logits."""
    is_exact = True
    """Whether all that is kept equals what a forward without a cache would compute, so that the likelihood of a
    trajectory is that of its states."""

    def canvas(self, prompt_len: int, max_new_tokens: int, size: int) -> Canvas:
        """The positions of a response of at least `max_new_tokens`, in blocks of `size`. By default the grid starts at
        position 0, so the prompt's rest opens the first decoded block."""
        return Canvas(origin=0, start=prompt_len // size * size, end=-(-(prompt_len + max_new_tokens) // size) * size)

    def reach(self, start: int, end: int, size: int) -> int:
        """How many positions must have pages while the block that begins at `start` is active."""
        return start + size

    def interval(self, start_B: np.ndarray, pending_B: np.ndarray, end_B: np.ndarray, size: int) -> Interval:
        """What the next forward of each row computes. start_B: the active block's first position; pending_B: the block
        before it is finished and not yet computed clean; end_B: the canvas' end; size: K."""
        raise NotImplementedError

    def open(self, masked_BK: np.ndarray) -> np.ndarray:
        """(B, K) bool, of the active block: a subset of masked_BK, not empty where masked_BK is not."""
        return masked_BK
