"""SDAR's schedules: block by block along a grid that begins with the prompt, every masked position of the block open.

A finished block is context from then on, clean: its keys and values are computed once more without masks. The three
schedules differ in when that happens. `FusedCommit` does it in the forward that first denoises the next block (2K
queries, no forward that reveals nothing); `SeparateCommit` in a forward of its own, as the published engines do;
`Recompute` keeps nothing and computes every position in every forward.

Shapes: B rows; K positions of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightningrl.decoding.canvas import Interval, Progress, Schedule


@dataclass(frozen=True, slots=True)
class FusedCommit(Schedule):
    """2K queries once a block, no forward that only commits: tokens per forward are what they say."""

    shares_prompt = True

    def interval(self, at: Progress, size: int) -> Interval:
        """The active block, and before it a finished one whose clean keys and values are still to be written."""
        return Interval(at.start_B - size * at.pending_B, at.start_B + size, np.ones_like(at.pending_B))


@dataclass(frozen=True, slots=True)
class SeparateCommit(Schedule):
    """One forward a block that reveals nothing. The last block is not committed: nothing would read it."""

    shares_prompt = True

    def interval(self, at: Progress, size: int) -> Interval:
        """The finished block alone where one is pending, else the active block."""
        return Interval(at.start_B - size * at.pending_B, at.start_B + size * ~at.pending_B, ~at.pending_B)


@dataclass(frozen=True, slots=True)
class Recompute(Schedule):
    """No cache, for comparison and tests: each forward computes the prompt and all blocks so far."""

    keeps_blocks = False

    def interval(self, at: Progress, size: int) -> Interval:
        return Interval(np.zeros_like(at.start_B), at.start_B + size, np.ones_like(at.pending_B))
