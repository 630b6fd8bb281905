"""GRPO on trajectories, the paper's rival: the same likelihood, rewards summed raw, normalised in their group (Eq. 2).

It has no value model and no NLL term; the filter is LightningRL's.
"""

from __future__ import annotations

from pydantic import Field

from lightningrl.rl.policy_gradient import Advantage, PolicyGradient, Rewards
from lightningrl.rl.rewards import Reward


class GRPOTrajectory(PolicyGradient):
    """Plain GRPO on the trajectory that happened."""

    class Config(PolicyGradient.Config):
        rewards: Rewards = Field(default=[Reward(name="accuracy"), Reward(name="tpf")])
        advantage: Advantage = "group"
