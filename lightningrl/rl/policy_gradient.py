"""The clipped policy gradient that the algorithms here share: rewards, filters, normalisation, loss, value model.

It puts plain functions together (`rewards`, `losses`, `value`); an algorithm says with which keys and in
which states. The keys `nll`, `shrink` and `value` are not all algorithms': one without them does without the thing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, field_validator

from lightningrl.config.section import Section
from lightningrl.rl.algorithm import OnlineAlgorithm, StateGrouping
from lightningrl.rl.groups import Groups
from lightningrl.rl.rewards import NORMALISATIONS, Reward, raw, total_reward
from lightningrl.rl.step_metrics import advantage_metrics

if TYPE_CHECKING:
    from torch import Tensor

    from lightningrl.rl.likelihood import TokenScores
    from lightningrl.rl.losses import Actions, Sums
    from lightningrl.rl.setup import TrainSetup
    from lightningrl.rl.update import Batch
    from lightningrl.rl.value import Critic

Rewards = Annotated[list[Reward], Field(min_length=1)]
Advantage = Literal["none", "center", "group", "batch"]
KLTo = Literal["base", "rollout"]
SPEED = Reward(name="tpf", scale="z_score")


class Value(Section):
    """The value model: the policy's own network with a linear head that starts at zero (TraceRL)."""

    learning_rate: float = Field(default=5e-6, gt=0)
    clip: float = Field(default=0.2, gt=0)
    """Values are clipped to their old ones +- this in the loss."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount a denoise step."""
    lam: float = Field(default=1.0, ge=0, le=1)
    """lambda of the generalised advantage estimate over denoise steps."""


class PolicyGradient(OnlineAlgorithm):
    """GRPO's clipped surrogate on groups, with a KL term; token advantages where there is a value model."""

    class Config(Section):
        """The keys that every policy gradient has."""

        rewards: Rewards
        """Added up after each is scaled and weighted."""
        advantage: Advantage = "batch"
        """What becomes of the summed reward: normalised over the update's batch (Eq. 7) or in its group (Eq. 2),
        centred in its group, or left as it is. With a value model it is what the model's estimate is taken from."""
        filter_tpf_range: NonNegativeFloat = 0.01
        """Groups whose TPF spread (max - min) is below it are dropped and resampled."""
        filter_all_wrong: bool = True
        """Drop groups without a single correct response, or where the judge grades without one that passes a test, as
        the published code does."""
        filter_accuracy: tuple[float, float] = (0.0, 1.0)
        """Keep groups whose share of correct responses is within these bounds."""
        clip_low: float = Field(default=0.2, gt=0, lt=1)
        """The ratio is clipped to [1 - clip_low, 1 + clip_high]."""
        clip_high: float = Field(default=0.2, gt=0)
        kl: NonNegativeFloat = 0.01
        """beta: weight of the KL term, estimator k3."""
        kl_to: KLTo = "base"
        """The policy that the KL term holds to: the frozen base, or the one that made the step's rollouts, by its old
        log-probabilities. Then no reference model is held or computed."""
        reduction: str = "seq-tok-tok"
        """Means of the policy, KL and NLL terms, in this order: `seq` over sequences of token means, `tok` over tokens,
        `longest` over sequences of sums over the length of the batch's longest (TraceRL). Always over the whole
        update."""

        @field_validator("reduction")
        @classmethod
        def _three_means(cls, found: str) -> str:
            parts = found.split("-")
            if len(parts) != 3 or not set(parts) <= {"seq", "tok", "longest"}:
                raise ValueError(f"found {found!r}, allowed: three of seq, tok, longest, like seq-tok-tok")
            return found

        @field_validator("filter_accuracy")
        @classmethod
        def _in_order(cls, found: tuple[float, float]) -> tuple[float, float]:
            if not 0 <= found[0] <= found[1] <= 1:
                raise ValueError(f"found {list(found)}, allowed: two numbers with 0 <= low <= high <= 1")
            return found

    full_mask: bool = False
    """Whether each block is one state with all its tokens masked, whatever happened."""
    critic: Critic | None = None

    def __init__(self, config: Any):
        super().__init__(config)
        self.nll: float = getattr(config, "nll", 0.0)
        self.value: Value | None = getattr(config, "value", None)
        self.states = StateGrouping(getattr(config, "shrink", 1), self.full_mask)
        self.needs_reference = self.needs_reference and getattr(config, "kl_to", "base") == "base"

    @property
    def has_value_model(self) -> bool:
        return self.value is not None

    @property
    def weighs_states(self) -> bool:
        """The loss here heeds how often an action counts; a subclass with another says so itself."""
        return type(self).loss is PolicyGradient.loss

    @property
    def own_forwards(self) -> int:
        return 4 if self.value else 0  # one for the estimate, three for the value model's update

    def members(self) -> dict[str, str]:
        return {f"reward/{reward.name}": reward.name for reward in self.config.rewards if ":" in reward.name}

    def dropped(self, groups: Groups) -> dict[str, np.ndarray]:
        """The TPF spread (max - min) must reach its limit, and the share of correct responses lie within its bounds."""
        config, spread_N, share_N = self.config, np.ptp(groups.tpf_NG, axis=1), groups.correct_NG.mean(axis=1)
        low, high = config.filter_accuracy
        return {
            "filter_tpf_range": spread_N < config.filter_tpf_range,
            "filter_all_wrong": ~groups.is_any_right_N & config.filter_all_wrong,
            "filter_accuracy": (share_N < low) | (share_N > high),
        }

    def rewards(self, groups: Groups) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for reward in self.config.rewards:
            name = reward.name if reward.name not in found else f"{reward.name} ({len(found) + 1})"
            found[name] = raw(reward.name, groups)
        return found

    def total_reward(self, groups: Groups) -> np.ndarray:
        """Returns (N, G): the scaled and weighted sum of the rewards."""
        return total_reward(self.config.rewards, groups)

    def advantages(self, groups: Groups) -> np.ndarray:
        return NORMALISATIONS[self.config.advantage](self.total_reward(groups))

    def metrics(self, kept: Groups, advantage_NG: np.ndarray) -> dict[str, Any]:
        found: dict[str, Any] = {"reward_optimised_mean": float(self.total_reward(kept).mean())}
        outside = [reward.name for reward in self.config.rewards if ":" in reward.name]
        found |= {f"reward_{name}_mean": float(raw(name, kept).mean()) for name in outside}
        return found if self.value else found | advantage_metrics(kept, advantage_NG)

    def loss(self, scores: TokenScores, actions: Actions, sums: Sums) -> tuple[Tensor, dict[str, Tensor]]:
        from lightningrl.rl.losses import policy_loss

        config, clip = self.config, (self.config.clip_low, self.config.clip_high)
        weights = {"kl": config.kl, "nll": self.nll}
        return policy_loss(scores.logp_n, actions, sums, clip=clip, **weights, reduction=config.reduction)

    def build(self, setup: TrainSetup) -> None:
        from lightningrl.rl.value import Critic

        self.critic = Critic(setup, self.value, self.states) if self.value else None

    def prepare(self, batch: Batch) -> None:
        if self.critic:
            self.critic.estimate(batch)

    def update(self, batch: Batch) -> dict[str, float | None]:
        return self.critic.update(batch) if self.critic else {}

    def state_dict(self) -> dict[str, Any]:
        return {"critic": self.critic.state_dict()} if self.critic else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.critic:
            self.critic.load_state_dict(state["critic"])
