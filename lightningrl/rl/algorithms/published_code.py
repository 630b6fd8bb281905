"""What the published code computes, defects included, as a rival: to tell a difference of method from one of code.

Both rewards z-scored; one row per response in which every token of a block is masked, whatever the decoder did; the NLL
of responses whose summed reward is at least 0, since correctness never reaches its trainer; overlong answers wrong.
What it does to batches, learning rates and tokens by accident (docs/paper_index.md) is not copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from lightningrl.rl.groups import Groups
from lightningrl.rl.policy_gradient import SPEED, PolicyGradient, Rewards
from lightningrl.rl.rewards import Reward

if TYPE_CHECKING:
    from lightningrl.answering import Answer, Task


class PublishedCode(PolicyGradient):
    """The published code's LightningRL, whose rows are fully masked blocks."""

    class Config(PolicyGradient.Config):
        rewards: Rewards = Field(default=[Reward(name="accuracy", scale="z_score"), SPEED])
        nll: float = Field(default=0.1, ge=0)
        """mu: weight of the NLL term on responses whose summed reward is at least 0."""
        overlong_margin: int | None = Field(default=5, ge=0)
        """Responses of at least max_new_tokens minus this count as wrong, where the judge does not grade; null: only
        the judge says what is wrong."""

    full_mask = True

    def groups(self, answers: list[list[Answer]], task: Task) -> Groups:
        margin, graded = self.config.overlong_margin, task.judge.graded
        return Groups(answers, graded, None if margin is None or graded else task.max_new_tokens - margin)

    def imitated(self, groups: Groups) -> np.ndarray:
        return (self.total_reward(groups) >= 0) & (self.nll > 0)
