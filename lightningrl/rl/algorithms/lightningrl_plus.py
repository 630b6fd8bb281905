"""LightningRL with another speed reward: fewer forwards and fewer tokens per answer, among correct answers only.

Tokens a forward can be earned with longer answers, and are; below the trained threshold accuracy may fall off
(docs/study.md). So the speed reward is minus the denoise forwards of the response, which padding does not raise, with a
smaller one on its length, both z-scored among the group's correct responses and 0 for the others. It belongs with
`runs.rollout_thresholds`, most of them below the one that counts.
"""

from __future__ import annotations

from pydantic import Field

from lightningrl.rl.algorithms.lightningrl import LightningRL
from lightningrl.rl.policy_gradient import Rewards
from lightningrl.rl.rewards import Reward


class LightningRLPlus(LightningRL):
    """LightningRL that pays correct answers for few forwards and few tokens."""

    class Config(LightningRL.Config):
        rewards: Rewards = Field(default=[
            Reward(name="accuracy"),
            Reward(name="forwards", scale="z_score", only_correct=True),
            Reward(name="length", scale="z_score", only_correct=True, weight=0.15),
        ])  # fmt: skip
