"""Schedules under which one forward may reveal positions of several blocks, and what they are asked with.

The blocks of a response are opened one after another and finish in any order. A block is *full* when it must make
progress: the best of its positions is revealed even when none passes the selector's rule. Keys and values are kept of a
run of finished blocks from the first position on; every forward computes what lies behind that run, up to the last open
block or to the end of the canvas. Where logits are shifted and the position before a forward's first is not computed
any more, the state that predicts the first is carried along.

Shapes: B rows; K positions of a block; J blocks of the longest response; G rows of a span; Q queries of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lightningrl.decoding.canvas import Interval, Progress, Schedule
from lightningrl.errors import DecodeError
from lightningrl.models.attention import key_limits
from lightningrl.models.transformer import ModelConfig


class WindowProgress(NamedTuple):
    """How far each row is before a forward."""

    first_B: np.ndarray
    """Where its first block that is decoded begins."""
    end_B: np.ndarray
    """One past the last position of the canvas."""
    open_B: np.ndarray
    """One past the last position of the last open block."""
    stored_B: np.ndarray
    """Positions, from the first one on, whose keys and values are kept."""
    forward_B: np.ndarray
    """The number of this forward among those that denoise, from 1."""
    stopped_B: np.ndarray
    """bool: a stop token was revealed, and it ends the response."""
    masks_BJ: np.ndarray
    """The masked positions of each block; 0 behind the canvas."""
    finished_BJ: np.ndarray
    """The forward that revealed the last position of the blocks up to this one, as far as they are revealed; 0 where
    there was none."""

    @property
    def run_B(self) -> np.ndarray:
        """(B,) how many blocks from the first one on have no mask."""
        return np.logical_and.accumulate(self.masks_BJ == 0, axis=1).sum(axis=1)

    def finished_until(self, size: int) -> np.ndarray:
        """(B,) one past the last position before the first open block that has masks."""
        return np.minimum(self.first_B + self.run_B * size, np.maximum(self.open_B, self.first_B))

    def share_BJ(self, size: int) -> np.ndarray:
        """The share of each block that is revealed; prompt tokens in it count."""
        return (size - self.masks_BJ) / size

    def share_before_BJ(self, size: int) -> np.ndarray:
        """The share of the block before each one that is revealed; 1 before the first."""
        return np.concatenate([np.ones((len(self.first_B), 1)), self.share_BJ(size)[:, :-1]], axis=1)


class Plan(NamedTuple):
    """What one forward does for each of its rows: the positions it computes and what is kept of them afterwards."""

    first_B: np.ndarray
    """First position computed."""
    last_B: np.ndarray
    """One past the last position computed."""
    stored_B: np.ndarray
    """Positions whose keys and values are kept from now on; no less than before."""
    refreshes_B: np.ndarray
    """bool: it computes the whole canvas anew, and what is kept is what it wrote."""
    left_B: np.ndarray | None = None
    """Positions whose keys and values this forward leaves for the next ones, more than `stored_B` where the published
    code has it so; None: as many."""


class Window(Schedule):
    """A schedule with several open blocks. What each piece means is said above.

    `window` is the most blocks in which one forward reveals; 0 is as many as the response has.
    """

    block_add_threshold: float
    """The share of the last open block that must be revealed before the next one is opened."""
    decoded_token_threshold: float
    """The share of a block that must be revealed before the one behind it is full."""
    fills_stop = False
    """Whether all behind the first stop token becomes that token, so that nothing behind it is decoded."""
    decodes_filled = False
    """Whether what was filled so may still be written over in the very next forward."""
    reveals_best = False
    """Whether the best ranked position of all open blocks is revealed in every forward, beside what must be."""
    keeps_own_logit = False
    """Whether the first position of a forward, under shifted logits, is predicted by its own logit instead of the one
    before it, which is the published code's and no prediction of it."""
    needs: str | None = None
    """The attention that the model must have."""

    def widen(self, at: WindowProgress, size: int) -> np.ndarray:
        """(B,) one past the last position that is open in the next forward; no less than it was."""
        raise NotImplementedError

    def plan(self, at: WindowProgress, size: int) -> Plan:
        """What the next forward computes; `at.open_B` is what `widen` has said."""
        raise NotImplementedError

    def forced(self, at: WindowProgress, size: int) -> np.ndarray:
        """(B, J) bool: the blocks with masks that reveal at least one position in the next forward; at least one of
        those that are open, where any of them has a mask."""
        raise NotImplementedError

    def limits(
        self, config: ModelConfig, positions_GQ: np.ndarray, prompt_len_G: np.ndarray, end_G: np.ndarray
    ) -> np.ndarray:
        """(G, Q) how many keys, from the row's first, each position sees; by default as many as the model says."""
        return key_limits(config, positions_GQ, end_G)

    def interval(self, at: Progress, size: int) -> Interval:
        raise DecodeError(f"{self} has no single active block: it is asked by `plan`")

    def check_thresholds(self) -> None:
        """Raises DecodeError for shares that no block could reach."""
        for name in ("block_add_threshold", "decoded_token_threshold"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise DecodeError(f"{type(self).__name__}: {name} is {value!r}, expected a share from 0 to 1")
