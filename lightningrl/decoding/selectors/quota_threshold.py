"""Fast-dLLM's rule on Dream without a cache: a threshold among the best of the whole canvas, as many as are due."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightningrl.decoding.proposals import Proposals, places
from lightningrl.decoding.selectors.quota import require_steps
from lightningrl.errors import DecodeError


@dataclass(frozen=True, slots=True)
class QuotaThreshold:
    """After forward i (from 1) of `steps`, at most i shares of the block are revealed; what was due and is not stays
    due.

    Of the best ranked positions that are due, the first is always revealed and another one where its number is at least
    tau. After the last step all that is masked is due. A block of K positions has shares of K / steps.
    (Fast-dLLM v1, arXiv 2505.22618, dream/model, `confidence_threshold` without a cache.)
    """

    tau: float
    steps: int = 8

    def __post_init__(self) -> None:
        require_steps("quota_threshold", self.steps)
        if math.isnan(self.tau):
            raise DecodeError("quota_threshold: tau is no number")

    def select(self, candidates: Proposals) -> Tensor:
        open_BK, size, steps = candidates.open_BK, candidates.open_BK.shape[-1], int(self.steps)
        revealed_B = size - open_BK.sum(dim=1)
        step_B = (candidates.step_B + 1).clamp(max=steps)
        due_B = torch.div(size * step_B + steps - 1, steps, rounding_mode="floor") - revealed_B
        place_BK = places(candidates.score_BK, open_BK)
        passed_BK = (candidates.score_BK >= self.tau) & (place_BK < due_B[:, None])
        return (passed_BK | ((place_BK == 0) & candidates.must_B1)) & open_BK
