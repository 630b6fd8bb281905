"""Reveal as many of the best positions as their numbers add up to: dUltra's rule without chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightningrl.decoding.proposals import Proposals
from lightningrl.decoding.selectors.bernoulli import check_factor


@dataclass(frozen=True, slots=True)
class TopSum:
    """The floor of factor * (the sum of the ranking's numbers) best positions, at least one and at most all that are
    open.

    (chinsengi/dUltra-os, mode "inference", ranked by `planner`. The published code has no upper end: with a factor
    above 1 it may write over what is not masked, and then never ends.)
    """

    factor: float = 1.0

    takes_probabilities: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_factor("top_sum", self.factor)

    def select(self, candidates: Proposals) -> Tensor:
        open_BK = candidates.open_BK
        sum_B = candidates.score_BK.masked_fill(~open_BK, 0.0).sum(dim=-1) * self.factor
        return candidates.best(sum_B.floor().long().clamp(min=1).minimum(open_BK.sum(dim=-1)))
