"""Rank positions from left to right; with `Quota`, the `sequential` strategy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightningrl.decoding.proposals import OpenPositions


@dataclass(frozen=True, slots=True)
class Position:
    """Minus the place in the block."""

    def score(self, drawn: OpenPositions) -> Tensor:
        """(B, K), higher is sooner: 0, -1, -2, ... from the left."""
        confidence_BK = drawn.confidence_BK
        places_K = torch.arange(confidence_BK.shape[-1], device=confidence_BK.device, dtype=confidence_BK.dtype)
        return (-places_K).expand_as(confidence_BK)
