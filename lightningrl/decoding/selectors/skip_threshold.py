"""Reveal what is surer than a threshold, and where nothing is, the best ranked position: D2F's rule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightningrl.decoding.proposals import Proposals
from lightningrl.errors import DecodeError


@dataclass(frozen=True, slots=True)
class SkipThreshold:
    """Positions whose confidence is over `skip_threshold` (strict `>`), whatever they are ranked by.

    The ranking says only which position is revealed where none passes and one must be: by `confidence` this is
    `Threshold`, by `neg_entropy` and others it may be another. (D2F, arXiv 2508.09192.)
    """

    skip_threshold: float

    def __post_init__(self) -> None:
        if math.isnan(self.skip_threshold):
            raise DecodeError("skip_threshold: skip_threshold is no number")

    def select(self, candidates: Proposals) -> Tensor:
        passed_BK = (candidates.confidence_BK > self.skip_threshold) & candidates.open_BK
        one_B = torch.ones(len(passed_BK), dtype=torch.int64, device=passed_BK.device)
        return torch.where(passed_BK.any(dim=-1, keepdim=True), passed_BK, candidates.best(one_B))
