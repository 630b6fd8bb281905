"""Entropy-bounded: reveal the surest positions as long as their entropies together stay within a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from lightningrl.decoding.proposals import Proposals, places
from lightningrl.errors import DecodeError


@dataclass(frozen=True, slots=True)
class CumulativeEntropy:
    """Positions by rising entropy: the longest prefix whose sum is at most gamma nats, and at least one."""

    gamma: float

    def __post_init__(self) -> None:
        if math.isnan(self.gamma):
            raise DecodeError("cumulative_entropy: gamma is no number")

    def select(self, candidates: Proposals) -> Tensor:
        entropy_BK, open_BK = candidates.entropy_BK, candidates.open_BK
        place_BK = places(-entropy_BK, open_BK)
        sorted_BK = entropy_BK.masked_fill(~open_BK, float("inf")).gather(-1, place_BK.argsort(dim=-1))
        within_BK = (sorted_BK.cumsum(dim=-1) <= self.gamma).gather(-1, place_BK)
        return (within_BK | ((place_BK == 0) & candidates.must_B1)) & open_BK
