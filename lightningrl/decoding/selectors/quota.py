"""Reveal a fixed number of positions per step: SDAR's `low_confidence_static`, and by position its `sequential`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightningrl.decoding.proposals import Bound, Proposals
from lightningrl.errors import DecodeError


@dataclass(frozen=True, slots=True)
class Quota:
    """The highest ranked positions, as many as the step's share of the block.

    steps: denoise forwards a block of K is spread over; step s (from 0) reveals K // steps, one more while s < K mod
    steps, and never less than one.
    """

    steps: float

    def __post_init__(self) -> None:
        require_steps("quota", self.steps)

    def select(self, candidates: Proposals) -> Tensor:
        return candidates.best(step_quota(candidates.open_BK.shape[-1], int(self.steps), candidates.step_B))

    def bound(self, size: int) -> Bound:
        return Bound(float("inf"), False, step_quota(size, int(self.steps), torch.arange(size)))


def require_steps(selector: str, steps: float) -> None:
    """Raises DecodeError when no block can be spread over so many steps."""
    if not (isinstance(steps, (int, float)) and steps >= 1 and steps % 1 == 0):
        raise DecodeError(f"{selector}: steps is {steps!r}, expected a whole number of 1 or more")


def step_quota(block_size: int, steps: int, step_B: Tensor) -> Tensor:
    """(B,) how many positions step `step_B` of a block reveals.

    >>> import torch
    >>> step_quota(8, 3, torch.arange(4)).tolist()
    [3, 3, 2, 2]
    """
    share, rest = divmod(block_size, steps)
    return (share + (step_B < rest).long()).clamp(min=1)
