"""Rankings: a number for each open position, (B, K), by which selectors order them. Higher is sooner.

One with a true `uses_noise` gets a uniform for each position, keyed like the draws of tokens and independent of them;
one with a true `uses_margin` the difference of the two largest probabilities; one with a true `uses_planner` the logits
of the model's planner. One with a true `is_probability` gives probabilities, which some selectors need.

Shapes: B rows; K positions of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightningrl.decoding.proposals import OpenPositions
from lightningrl.errors import DecodeError


class Drawable:
    """A ranking that may be drawn from: with an `alg_temp` above 0, positions are ordered as if they were drawn one
    after another, without replacement, by the weights softmax(score / alg_temp) (Dream's `alg_temp`)."""

    __slots__ = ()
    alg_temp: float

    @property
    def uses_noise(self) -> bool:
        return self.alg_temp > 0

    def __post_init__(self) -> None:
        if not 0 <= self.alg_temp < float("inf"):
            raise DecodeError(f"{type(self).__name__}: alg_temp is {self.alg_temp}, expected 0 (off) or more")

    def drawn(self, score_BK: Tensor, noise_BK: Tensor | None) -> Tensor:
        """(B, K) the scores in which such a draw is the order of falling numbers: Gumbel noise is added."""
        if not self.alg_temp:
            return score_BK
        assert noise_BK is not None
        gumbel_BK = -torch.log(-torch.log(noise_BK.clamp(min=2.0**-60)))
        return score_BK.double() / self.alg_temp + gumbel_BK


@dataclass(frozen=True, slots=True)
class Confidence(Drawable):
    """SDAR's ranking: the probability of the drawn token at the decoding temperature, before any top-k or top-p."""

    alg_temp: float = 0.0

    @property
    def is_probability(self) -> bool:
        return not self.alg_temp

    def score(self, drawn: OpenPositions) -> Tensor:
        return self.drawn(drawn.confidence_BK, drawn.noise_BK)


@dataclass(frozen=True, slots=True)
class Margin(Drawable):
    """Dream's `topk_margin`: by how much the likeliest token is likelier than the second."""

    alg_temp: float = 0.0

    uses_margin = True

    def score(self, drawn: OpenPositions) -> Tensor:
        assert drawn.margin_BK is not None
        return self.drawn(drawn.margin_BK, drawn.noise_BK)


@dataclass(frozen=True, slots=True)
class NegEntropy(Drawable):
    """Minus the entropy of the whole distribution, in nats: `Threshold(-0.5)` reveals what has less than 0.5 nats."""

    alg_temp: float = 0.0

    def score(self, drawn: OpenPositions) -> Tensor:
        return self.drawn(-drawn.entropy_BK, drawn.noise_BK)


@dataclass(frozen=True, slots=True)
class Position:
    """From left to right (0, -1, -2, ...); with `Quota` this is SDAR's `sequential` strategy."""

    def score(self, drawn: OpenPositions) -> Tensor:
        confidence_BK = drawn.confidence_BK
        places_K = torch.arange(confidence_BK.shape[-1], device=confidence_BK.device, dtype=confidence_BK.dtype)
        return (-places_K).expand_as(confidence_BK)


@dataclass(frozen=True, slots=True)
class Planned:
    """dUltra's ranking: the probability of being revealed, sigmoid(planner's logit / temperature), in float64.

    temperature: the published evaluations' `planner_temperature`, 1 where they name none.
    """

    temperature: float = 1.0

    uses_planner = True
    is_probability = True

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise DecodeError(f"planner: temperature is {self.temperature}, expected a number above 0")

    def score(self, drawn: OpenPositions) -> Tensor:
        assert drawn.planner_BK is not None
        return torch.sigmoid(drawn.planner_BK.double() / self.temperature)


@dataclass(frozen=True, slots=True)
class Random:
    """In no order: LLaDA's `remasking="random"`, a uniform for each position in each forward."""

    uses_noise = True

    def score(self, drawn: OpenPositions) -> Tensor:
        assert drawn.noise_BK is not None
        return drawn.noise_BK
