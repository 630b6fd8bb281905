"""Reveal every position whose distribution has at most so much entropy, and at least one: dParallel's rule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightningrl.decoding.proposals import Proposals
from lightningrl.errors import DecodeError


@dataclass(frozen=True, slots=True)
class Entropy:
    """Positions with an entropy of at most `nats`; where there is none, the best ranked one.

    strict: below `nats`, not at it. (dParallel, arXiv 2509.26488, on LLaDA; ranked by `neg_entropy`.)
    """

    nats: float
    strict: bool = False

    def __post_init__(self) -> None:
        if math.isnan(self.nats):
            raise DecodeError("entropy: nats is no number")

    def select(self, candidates: Proposals) -> Tensor:
        entropy_BK, open_BK = candidates.entropy_BK, candidates.open_BK
        passed_BK = entropy_BK < self.nats if self.strict else entropy_BK <= self.nats
        one_B = torch.ones(len(open_BK), dtype=torch.int64, device=open_BK.device)
        return (passed_BK & open_BK) | candidates.best(one_B)
