"""GRPO on trajectories, the paper's rival: the same likelihood, rewards summed raw, normalised in their group (Eq. 2).

No value model and no NLL; the filter is the same.
"""

from __future__ import annotations

from lightningrl.config.method import Method, Reward
from lightningrl.rl.setup import TrainSetup
from lightningrl.rl.trainer import PolicyTrainer

GRPO_TRAJECTORY = Method(rewards=[Reward(name="accuracy"), Reward(name="tpf")], advantage="group", nll=0.0)


def trainer(setup: TrainSetup) -> PolicyTrainer:
    return PolicyTrainer(setup, GRPO_TRAJECTORY)
