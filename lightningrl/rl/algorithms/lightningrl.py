"""LightningRL: GRPO with three changes (Hu et al.).

1. advantages   the speed reward (TPF) is z-scored inside its group, the accuracy reward (+-1) is not; their sum is
                normalised over the optimiser update's batch (Eq. 5-7 and the remark under them)
2. loss         clipped surrogate + mu * token NLL on verifier-correct trajectories (Eq. 9, 10)
3. batch        groups whose TPF does not spread are dropped and resampled (section 3.3)

`Method`'s defaults are the paper's text. Its Algorithm 1 differs in two places and is a preset of its own.
"""

from __future__ import annotations

from lightningrl.config.method import Method, Reward
from lightningrl.rl.setup import TrainSetup
from lightningrl.rl.trainer import PolicyTrainer

LIGHTNINGRL = Method()
ALGORITHM1 = Method(
    rewards=[Reward(name="accuracy", scale="z_score"), Reward(name="tpf", scale="z_score")], advantage="group"
)
"""Both rewards z-scored, the sum normalised in its group (line 29)."""


def trainer(setup: TrainSetup) -> PolicyTrainer:
    return PolicyTrainer(setup, LIGHTNINGRL)


def algorithm1(setup: TrainSetup) -> PolicyTrainer:
    return PolicyTrainer(setup, ALGORITHM1)
