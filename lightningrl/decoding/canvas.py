"""How a response is walked: where it lies, which of its positions a forward computes, and on what pages.

Shapes: B rows; K positions of a block.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lightningrl.errors import DecodeError

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
    """One past the last position that may be decoded: on the grid, or where no more of a last block is asked for."""


class Progress(NamedTuple):
    """How far each row of a forward is."""

    start_B: np.ndarray
    """First position of the active block."""
    pending_B: np.ndarray
    """bool: the block before it is finished and not yet computed clean."""
    end_B: np.ndarray
    """One past the last position of the canvas."""
    step_B: np.ndarray
    """How many denoise forwards have computed the active block."""
    masked_BK: np.ndarray
    """bool, of the active block."""


class Interval(NamedTuple):
    """What one forward does for each of its rows: the positions it computes and whether it denoises.

    Where the model's logits are shifted (`ModelConfig.logit_shift`), the decoder lets a denoise forward begin one
    position before the active block at the latest, where the block's first position is predicted, unless the schedule
    says that it `knows_first`.
    """

    first_B: np.ndarray
    """First position computed."""
    last_B: np.ndarray
    """One past the last position computed."""
    denoises_B: np.ndarray
    """bool: positions of the active block, all of which are then computed, may be revealed."""
    refreshes_B: np.ndarray | None = None
    """bool: it computes the whole canvas, and forwards after it read what it leaves in the cache; None: none does. A
    row that lost its pages then gets them back by the same forward over the canvas as it was."""


class Schedule:
    """How a response is walked, over a grid of blocks, one of which is active at a time; by default SDAR's way.

    How far a position sees is the model's own (`models.attention.key_limits`); a forward's positions see what it
    computes and what earlier forwards have left in the cache.
    """

    block_size: int | None = None
    """K, positions of a block; None: the model's."""
    window: int = 1
    """The most blocks in which positions may be revealed by one forward: the active one and those behind it. What may
    reveal in more than one is a `Window` (decoding/window.py)."""
    least_forwards: int = 1
    """The denoise forwards that every block has at least: those after it is full reveal nothing."""
    keeps_blocks = True
    """Whether later forwards read the keys and values of finished blocks. Those of the prompt are then written when a
    row enters; a decoded block is pending when it is finished, until a forward has computed it clean."""
    shares_prompt = False
    """Whether rows with the same prompt may share the keys and values of its blocks before the first that is decoded:
    they are kept, equal what any such row computes, and no forward computes them again."""
    fills_canvas = False
    """Whether every position of the canvas, later masks too, has keys and values when it is attended to: what a model
    with full attention needs."""
    computes_active = True
    """Whether forwards that denoise compute the active block itself. False: they end before it, at the position whose
    logits predict it, for causal models with shifted logits."""
    is_whole = False
    """Whether a response is one block, however long it is."""
    knows_first = False
    """Whether the active block's first position is masked only while forwards compute the position before it: then none
    has to begin earlier for the sake of shifted logits."""
    is_productive = False
    """Whether the forward that computes a finished block or the prompt reveals the next block's first position, by the
    logits at its last one: for block-causal models with shifted logits. Other forwards may compute parts of the active
    block."""
    most_forwards: int | None = None
    """The denoise forwards after which a block is left whatever is masked in it; those positions then hold the mask
    token for good. None: no block is left before it is full."""
    is_exact = True
    """Whether all that is kept equals what a forward without a cache would compute, so that the likelihood of a
    trajectory is that of its states."""

    def size(self, max_new_tokens: int, model_size: int) -> int:
        """K for a response of so many tokens; model_size: the model's own."""
        return self.block_size or model_size

    def check(self, size: int) -> None:
        """Raises DecodeError for blocks of a size that it cannot walk."""

    def canvas(self, prompt_len: int, max_new_tokens: int, size: int) -> Canvas:
        """The positions of a response of at least `max_new_tokens`, in blocks of `size`. By default the grid starts at
        position 0, so the prompt's rest opens the first decoded block."""
        return Canvas(origin=0, start=prompt_len // size * size, end=-(-(prompt_len + max_new_tokens) // size) * size)

    def extent(self, canvas: Canvas) -> int:
        """The most positions that a row with this canvas ever has pages for."""
        return canvas.end

    def reach(self, start: int, end: int, size: int) -> int:
        """How many positions must have pages while the block that begins at `start` is active, the last one if several
        are open."""
        return start + size

    def interval(self, at: Progress, size: int) -> Interval:
        """What the next forward of each row computes: the whole active block, or what must come before it. size: K."""
        raise NotImplementedError

    def open(self, masked_BK: np.ndarray) -> np.ndarray:
        """(B, K) bool, of the active block: a subset of masked_BK, not empty where masked_BK is not."""
        return masked_BK


def reach_of(schedule: Schedule, start: int, canvas: Canvas, size: int) -> int:
    """Returns what a schedule's `reach` says of the block that begins at `start`. Raises DecodeError where that leaves
    out a part of the active block, or goes past what a row with this canvas ever has pages for."""
    reach, least, most = schedule.reach(start, canvas.end, size), min(start + size, canvas.end), schedule.extent(canvas)
    if not least <= reach <= most:
        raise DecodeError(
            f"the `reach` of {schedule} is {reach}, but the active block is {start} to {start + size - 1} and the last "
            f"position {canvas.end - 1}; expected {least} to {most}"
        )
    return reach
