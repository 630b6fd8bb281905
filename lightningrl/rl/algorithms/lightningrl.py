"""LightningRL: GRPO with three changes (Hu et al.).

1. advantages   the speed reward (TPF) is z-scored inside its group, the accuracy reward (+-1) is not; their sum is
                normalised over the optimiser update's batch (Eq. 5-7 and the remark under them)
2. loss         clipped surrogate + mu * token NLL on verifier-correct trajectories (Eq. 9, 10)
3. batch        groups whose TPF does not spread are dropped and resampled (section 3.3)

The defaults are those of the paper's text, whose ablations are keys. Its Algorithm 1 differs in two places and is a
class of its own.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from lightningrl.rl.groups import Groups
from lightningrl.rl.policy_gradient import SPEED, Advantage, PolicyGradient, Rewards, Value
from lightningrl.rl.rewards import Reward


class LightningRL(PolicyGradient):
    """The paper's method."""

    class Config(PolicyGradient.Config):
        rewards: Rewards = Field(default=[Reward(name="accuracy"), SPEED])
        nll: float = Field(default=0.1, ge=0)
        """mu: weight of the NLL term on correct responses (Eq. 9)."""
        shrink: int = Field(default=1, ge=1)
        """Denoise steps of a block that are trained as one state (TraceRL's shrink); 1 is the trajectory that happened.
        Old log-probabilities are then the trainer's, in those states."""
        value: Value | None = None
        """A value model: token advantages by generalised advantage estimation over denoise steps."""

    def imitated(self, groups: Groups) -> np.ndarray:
        return groups.correct_NG & (self.nll > 0)


class Algorithm1(LightningRL):
    """The paper's Algorithm 1: both rewards are z-scored, and the sum is normalised in its group (line 29)."""

    class Config(LightningRL.Config):
        rewards: Rewards = Field(default=[Reward(name="accuracy", scale="z_score"), SPEED])
        advantage: Advantage = "group"
