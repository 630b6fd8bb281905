"""dUltra (chinsengi/dUltra-os): the model and its planner are trained together, on what both decided.

Rollouts reveal each open position by a coin of the planner's (`bernoulli`, ranked by `planner`). An action is a denoise
forward: its likelihood is that of the tokens it revealed and of the set that it revealed (rl/reveals.py), its ratio is
clipped on its own, to [1 - 0.2, 1 + 1.0]. Rewards are added raw and centred in their group; negative advantages may be
left out. There is no KL term, no filter and no normalisation by the standard deviation.

What the published code does otherwise, and which keys bring it back, is in docs/defects.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from lightningrl.config.base import Base
from lightningrl.config.section import Section
from lightningrl.errors import ConfigError
from lightningrl.rl.algorithm import OnlineAlgorithm, StateGrouping
from lightningrl.rl.groups import Groups
from lightningrl.rl.policy_gradient import Rewards
from lightningrl.rl.rewards import Reward, centre_group, raw, total_reward
from lightningrl.rl.step_metrics import advantage_metrics

if TYPE_CHECKING:
    from torch import Tensor

    from lightningrl.models.transformer import ModelConfig, Transformer
    from lightningrl.rl.likelihood import ActionIndex, Copies, TokenScores
    from lightningrl.rl.losses import Actions, Sums
    from lightningrl.rl.reveals import RevealRule
    from lightningrl.rl.setup import TrainSetup
    from lightningrl.rl.teacher import Teacher
    from lightningrl.types import Trajectory


class TeacherReward(Base):
    """The mean log-probability a token of the response under an autoregressive model, as a reward. It is a checkpoint
    of a family without masks, such as Qwen2.5 or Llama 3."""

    weight: float = 1.0
    microbatch: int = Field(default=8, gt=0)
    """Responses a forward."""


class DUltra(OnlineAlgorithm):
    """dUltra's policy gradient over denoise forwards."""

    class Config(Section):
        """Its keys. Defaults are the published runs', where those are no defects."""

        rewards: Rewards = Field(
            default=[Reward(name="correct", weight=2.0), Reward(name="math_format"), Reward(name="steps", weight=0.1)]
        )
        """Added up raw. The published sum for mathematics is 2 if right, 0.25 to 1 for the format, and a tenth of minus
        a fiftieth of the forwards; for code `apps` (weight 3), `code_fence` and `steps`."""
        teacher: TeacherReward | None = None
        """A teacher whose mean log-probability of the response is a reward too; null: none."""
        advantage_min_clip: float | None = 0.0
        """Advantages below it become 0: with 0 only responses better than their group's mean are trained on. null: all
        are kept."""
        clip_low: float = Field(default=0.2, gt=0, lt=1)
        """A forward's ratio is clipped to [1 - clip_low, 1 + clip_high]."""
        clip_high: float = Field(default=1.0, gt=0)
        delta: float | None = Field(default=None, gt=0)
        """The largest ratio that counts where the clip does not hold it, for negative advantages; null: none."""
        compat: bool = False
        """The published code's likelihood and scale: tokens at temperature 1 whatever they were drawn at, forced picks
        scored as drawn, reveals without the decoder's factor and planner temperature, and twice the loss (the sum of
        two chunks' means). Old log-probabilities are then the trainer's."""

    needs_reference = False
    weighs_states = True

    def __init__(self, config: Any):
        super().__init__(config)
        self.states = StateGrouping(after_stop=True, rescored=config.compat)
        self.rule: RevealRule | None = None
        self.teacher: Teacher | None = None
        self.longest = 1

    @property
    def checkpoints(self) -> Mapping[str, Base]:
        return {"teacher": self.config.teacher} if self.config.teacher else {}

    def check(self, model: ModelConfig, where: str, beside: Mapping[str, ModelConfig] = MappingProxyType({})) -> None:
        if not model.has_planner:
            raise ConfigError(
                f"{where}: dUltra trains a model with a planner, and this {model.family} model has none; start from a "
                "dUltra checkpoint, or from one of the algorithm planner_pretraining"
            )
        teacher = beside.get("teacher")
        if teacher is not None and teacher.attention != "causal":
            raise ConfigError(
                f"{where}.method.teacher: found a {teacher.family} model with {teacher.attention} attention, expected "
                "an autoregressive one such as Qwen2.5"
            )

    def members(self) -> dict[str, str]:
        return {f"reward/{reward.name}": reward.name for reward in self.config.rewards if ":" in reward.name}

    def rewards(self, groups: Groups) -> dict[str, np.ndarray]:
        found = {reward.name: raw(reward.name, groups) for reward in self.config.rewards}
        return found | ({"teacher": self.teacher.rewards(groups)} if self.teacher else {})

    def total_reward(self, groups: Groups) -> np.ndarray:
        """Returns (N, G): the weighted sum of the rewards, the teacher's among them."""
        total_NG = total_reward(self.config.rewards, groups)
        return total_NG + self.config.teacher.weight * self.teacher.rewards(groups) if self.teacher else total_NG

    def advantages(self, groups: Groups) -> np.ndarray:
        advantage_NG, least = centre_group(self.total_reward(groups)), self.config.advantage_min_clip
        return advantage_NG if least is None else np.where(advantage_NG < least, 0.0, advantage_NG)

    def metrics(self, kept: Groups, advantage_NG: np.ndarray) -> dict[str, Any]:
        found: dict[str, Any] = {"reward_optimised_mean": float(self.total_reward(kept).mean())}
        found |= {f"reward_{name.replace(':', '.')}_mean": float(v.mean()) for name, v in self.rewards(kept).items()}
        return found | advantage_metrics(kept, advantage_NG)

    def build(self, setup: TrainSetup) -> None:
        from lightningrl.rl.reveals import RevealRule
        from lightningrl.rl.teacher import Teacher

        self.longest, name = setup.task.max_new_tokens, f"runs.{setup.run.name}"
        rules = set()
        for policy in (setup.policy, *setup.mixture):
            factor = getattr(policy.selector, "factor", None)
            temperature = getattr(policy.ranking, "temperature", None)
            is_planned = getattr(policy.ranking, "uses_planner", False) and hasattr(policy.selector, "decision")
            if not is_planned or factor is None or temperature is None:
                raise ConfigError(
                    f"{name}: {policy.selector} ranked by {policy.ranking} reveals by no draw of the planner's, so its "
                    "reveals have no likelihood; roll out with the preset dultra_b32 or dultra_b128"
                )
            rules.add((factor, temperature))
        if len(rules) > 1:
            raise ConfigError(f"{name}: dUltra rolls out with one factor; leave rollout_thresholds out")
        [(factor, temperature)] = rules
        compat = self.config.compat
        self.rule = RevealRule(forced_as_drawn=True) if compat else RevealRule(factor, temperature)
        self.teacher = Teacher(setup, self.config.teacher.microbatch) if self.config.teacher else None

    def score(
        self, model: Transformer, trajectories: Sequence[Trajectory], copies: Copies = slice(None)
    ) -> TokenScores:
        from lightningrl.rl.reveals import score_reveals

        assert self.rule is not None, "built before the first step"
        return score_reveals(model, trajectories, self.states, copies, self.rule, 1.0 if self.config.compat else None)

    def behaviour(self, trajectories: Sequence[Trajectory], actions: ActionIndex) -> Tensor:
        from lightningrl.rl.reveals import behaviour_of_reveals

        return behaviour_of_reveals(trajectories, actions)

    def loss(self, scores: TokenScores, actions: Actions, sums: Sums) -> tuple[Tensor, dict[str, Tensor]]:
        from lightningrl.rl.reveals import reveal_loss

        config = self.config
        normaliser = max(1, sums.all.sequences) * self.longest / (2 if config.compat else 1)
        clip = config.clip_low, config.clip_high
        return reveal_loss(
            scores, actions, clip=clip, delta=config.delta, normaliser=normaliser, actions_total=sums.actions
        )
