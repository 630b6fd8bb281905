"""TraceRL (Wang et al., arXiv 2509.06949), the paper's other rival, with its value model, rows, filter and loss.

Reward: correctness, z-scored in its group, and the raw TPF added to it, on the tokens of the last trainable denoise
step. Advantages: generalised advantage estimation over denoise steps against a value model. Groups with 20 to 80 % of
correct responses are kept. Sums over tokens are divided by the longest response, so short ones count less; the KL term
holds the policy to the one that made the rollouts. There is no NLL term.
"""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat

from lightningrl.rl.policy_gradient import Advantage, KLTo, PolicyGradient, Rewards, Value
from lightningrl.rl.rewards import Reward


class TraceRL(PolicyGradient):
    """TraceRL, with token advantages from a value model."""

    class Config(PolicyGradient.Config):
        rewards: Rewards = Field(default=[Reward(name="accuracy", scale="z_score"), Reward(name="tpf")])
        advantage: Advantage = "none"
        """What becomes of the summed reward before the value model's estimate is taken from it."""
        filter_tpf_range: NonNegativeFloat = 0.0
        filter_all_wrong: bool = False
        filter_accuracy: tuple[float, float] = (0.2, 0.8)
        reduction: str = "longest-longest-tok"
        kl_to: KLTo = "rollout"
        shrink: int = Field(default=1, ge=1)
        """Denoise steps of a block that are trained as one state; 1 is the trajectory that happened. Old
        log-probabilities are then the trainer's, in those states."""
        value: Value = Value()
        """The value model."""
