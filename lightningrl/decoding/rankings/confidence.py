"""Rank positions by the probability of the drawn token."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightningrl.decoding.proposals import OpenPositions


@dataclass(frozen=True, slots=True)
class Confidence:
    """SDAR's ranking: the probability at the decoding temperature, before any top-k or top-p."""

    def score(self, drawn: OpenPositions) -> Tensor:
        """(B, K), higher is sooner, within 0..1."""
        return drawn.confidence_BK
