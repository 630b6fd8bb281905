"""Dream's quota: a share of what is masked that falls with a time that runs from 1 to eps in even steps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lightningrl.decoding.proposals import Proposals
from lightningrl.decoding.selectors.quota import require_steps
from lightningrl.errors import DecodeError


@dataclass(frozen=True, slots=True)
class Timestep:
    """Step i of S (from 0) reveals int(m (1 - t_(i+1) / t_i)) of m masked positions, the best ranked; the last all.

    t_0, ..., t_S: from 1 to eps, in float32 as published. A step may reveal nothing, and with as many steps as
    positions the first does: every run has S forwards. opening: a block's first forward reveals its one open position
    and stands for step 0 (Fast-dLLM's caches on Dream). compat: with one step a block, the forward after that one
    reveals nothing, as published. (Dream, arXiv 2508.15487, generation_utils.py.)
    """

    steps: float
    eps: float = 1e-3
    opening: bool = False
    compat: bool = False

    may_wait = True

    def __post_init__(self) -> None:
        require_steps("timestep", self.steps)
        if not 0 < self.eps < 1:
            raise DecodeError(f"timestep: eps is {self.eps}, expected more than 0 and less than 1")

    def select(self, candidates: Proposals) -> Tensor:
        step_B, masks_B, steps = candidates.step_B, candidates.open_BK.sum(dim=1), int(self.steps)
        share_S = timestep_shares(steps, self.eps).to(masks_B.device)
        count_B = (masks_B.float() * share_S[step_B.clamp(max=steps - 1)]).long()
        count_B = torch.where(step_B >= steps - 1, masks_B, count_B)
        if self.opening:
            count_B = torch.where(step_B == 0, masks_B, count_B)
            if self.compat:
                count_B = torch.where(step_B >= max(1, steps), 0, count_B)
        return candidates.best(count_B)


@lru_cache(maxsize=64)
def timestep_shares(steps: int, eps: float) -> Tensor:
    """(S,) float32: the share of what is masked that each step reveals, the last step aside."""
    t = torch.linspace(1.0, eps, steps + 1, dtype=torch.float32)
    return 1 - t[1:] / t[:-1]
