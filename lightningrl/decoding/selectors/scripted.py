"""Reveal a given number of tokens per step, whatever the model says: speed without trained weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightningrl.decoding.proposals import Bound, Proposals
from lightningrl.errors import DecodeError


@dataclass(frozen=True, slots=True)
class Scripted:
    """Step s of a block (from 1) brings the revealed positions to round(s * tokens_per_step), best ranked first.

    The tokens per forward of a run come out a little lower where the last step of a block finds fewer left: read them
    off the ledger.
    """

    tokens_per_step: float

    def __post_init__(self) -> None:
        if not self.tokens_per_step >= 1 or not math.isfinite(self.tokens_per_step):
            raise DecodeError(f"scripted: tokens_per_step is {self.tokens_per_step}, expected 1 or more")

    def select(self, candidates: Proposals) -> Tensor:
        return candidates.best(self._count(candidates.step_B))

    def bound(self, size: int) -> Bound:
        return Bound(float("inf"), False, self._count(torch.arange(size)))

    def _count(self, step_B: Tensor) -> Tensor:
        before_B, after_B = ((step_B.double() + s).mul(self.tokens_per_step).add(0.5).floor() for s in (0, 1))
        return (after_B - before_B).clamp(min=1)
