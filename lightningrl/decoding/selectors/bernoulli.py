"""Reveal each position by a coin of its own: dUltra's rule, whose choices have a likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightningrl.decoding.proposals import Proposals, places
from lightningrl.errors import DecodeError

MOST = 1.0 - 1e-12
"""Probabilities are at most this where the logarithm of their complement is taken: what is kept masked was kept with a
probability above 0, however a number was rounded."""


@dataclass(frozen=True, slots=True)
class Bernoulli:
    """Position i is revealed with probability p_i = min(1, factor * its ranking's number), independently of the others.

    Where no coin falls so, the position with the largest p is revealed, the left-most of equals. Ranked by `planner`
    this is dUltra's sampler (chinsengi/dUltra-os, mode "training", that of its published evaluations too).
    """

    factor: float = 1.0

    uses_noise: ClassVar[bool] = True
    takes_probabilities: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_factor("bernoulli", self.factor)

    def select(self, candidates: Proposals) -> Tensor:
        assert candidates.noise_BK is not None
        drawn_BK = (candidates.noise_BK < candidates.score_BK * self.factor) & candidates.open_BK
        one_B = torch.ones(len(drawn_BK), dtype=torch.int64, device=drawn_BK.device)
        return torch.where(drawn_BK.any(dim=-1, keepdim=True), drawn_BK, candidates.best(one_B))

    def decision(self, candidates: Proposals, chosen_BK: Tensor) -> Tensor:
        """(B,) log-probability with which `select` reveals just these positions, nats."""
        score_BK = candidates.score_BK.masked_fill(~candidates.open_BK, 0.0)
        return decision_log_probs(score_BK * self.factor, candidates.open_BK, chosen_BK)


def check_factor(selector: str, factor: float) -> None:
    """Raises DecodeError for a factor that is no number above 0."""
    if not 0 < factor < float("inf"):
        raise DecodeError(f"{selector}: factor is {factor}, expected a number above 0")


def decision_log_probs(
    probability_BK: Tensor, open_BK: Tensor, chosen_BK: Tensor, *, forced_as_drawn: bool = False
) -> Tensor:
    """(B,) log-probability of the revealed sets, nats: sum of ln p over them and of ln(1 - p) over what stays masked.

    Where only the position with the largest p was revealed, no coin may have fallen on it: it is then revealed
    whether its own coin does or not, so its ln p is left out. forced_as_drawn: it is counted nevertheless, as in the
    published code. A row that reveals nothing has 0. Differentiable in the probabilities, which are taken as at most 1.
    """
    chosen_BK = chosen_BK & open_BK
    kept_BK = open_BK & ~chosen_BK
    inside_BK = probability_BK.clamp(max=MOST)
    drawn_BK = torch.where(chosen_BK, inside_BK, 1.0).log()
    stays_BK = torch.log1p(-torch.where(kept_BK, inside_BK, 0.0))
    if not forced_as_drawn:
        is_best_BK = (places(probability_BK.detach(), open_BK) == 0) & open_BK
        is_alone_B1 = (chosen_BK == is_best_BK).all(dim=-1, keepdim=True)
        drawn_BK = drawn_BK.masked_fill(is_alone_B1, 0.0)
    return ((drawn_BK + stays_BK) * chosen_BK.any(dim=-1, keepdim=True)).sum(dim=-1)
