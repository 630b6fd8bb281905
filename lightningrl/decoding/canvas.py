"""Where a response lies, and which of its positions a forward computes: what schedules answer with.

Shapes: B rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Canvas(NamedTuple):
    """The positions of one prompt and its response, counted from the first prompt token.

    >>> Canvas(origin=0, start=8, end=24)
    Canvas(origin=0, start=8, end=24)
    """

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
