"""Where a response lies, which of its positions a forward computes, and in what pages their keys and values are.

Shapes: B rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SMALLEST_PAGE_TOKENS = 16


class Canvas(NamedTuple):
    """The positions of one prompt and its response, counted from the first prompt token."""

    origin: int
    """Where the grid of blocks begins: 0, or the prompt's end."""
    start: int
    """First position of the first block that is decoded; it may hold prompt tokens."""
    end: int
    """One past the last position that may be decoded, on the grid."""


class Interval(NamedTuple):
    """What one forward does for each of its rows: the positions it computes and whether it denoises."""

    first_B: np.ndarray
    """First position computed."""
    last_B: np.ndarray
    """One past the last position computed."""
    denoises_B: np.ndarray
    """bool: positions of the active block, all of which are then computed, may be revealed."""


def page_size(block_size: int, at_least: int = SMALLEST_PAGE_TOKENS) -> int:
    """The positions of a page: as few blocks as have `at_least` positions.

    >>> page_size(4), page_size(24)
    (16, 24)
    """
    return block_size * -(-at_least // block_size)
