"""Rankings: a number for each open position, (B, K), by which selectors order them. Higher is sooner.

One with a true `uses_noise` gets a uniform for each position, keyed like the draws of tokens and independent of them.

Shapes: B rows; K positions of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightningrl.decoding.proposals import OpenPositions


@dataclass(frozen=True, slots=True)
class Confidence:
    """SDAR's ranking: the probability of the drawn token at the decoding temperature, before any top-k or top-p."""

    def score(self, drawn: OpenPositions) -> Tensor:
        return drawn.confidence_BK


@dataclass(frozen=True, slots=True)
class NegEntropy:
    """Minus the entropy of the whole distribution, in nats: `Threshold(-0.5)` reveals what has less than 0.5 nats."""

    def score(self, drawn: OpenPositions) -> Tensor:
        return -drawn.entropy_BK


@dataclass(frozen=True, slots=True)
class Position:
    """From left to right (0, -1, -2, ...); with `Quota` this is SDAR's `sequential` strategy."""

    def score(self, drawn: OpenPositions) -> Tensor:
        confidence_BK = drawn.confidence_BK
        places_K = torch.arange(confidence_BK.shape[-1], device=confidence_BK.device, dtype=confidence_BK.dtype)
        return (-places_K).expand_as(confidence_BK)


@dataclass(frozen=True, slots=True)
class Random:
    """In no order: LLaDA's `remasking="random"`, a uniform for each position in each forward."""

    uses_noise = True

    def score(self, drawn: OpenPositions) -> Tensor:
        assert drawn.noise_BK is not None
        return drawn.noise_BK
