"""Rank positions by how certain the whole distribution is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightningrl.decoding.proposals import OpenPositions


@dataclass(frozen=True, slots=True)
class NegEntropy:
    """Minus the entropy in nats: with `Threshold(-0.5)`, positions of less than 0.5 nats are revealed."""

    def score(self, drawn: OpenPositions) -> Tensor:
        """(B, K), higher is sooner, at most 0."""
        return -drawn.entropy_BK
