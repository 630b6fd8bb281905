"""What the published code computes, defects included, as a rival: to tell a difference of method from one of code.

Both rewards z-scored; one row a response in which every token of a block is masked, whatever the decoder did; the NLL
of responses whose summed reward is at least 0, since correctness never reaches its trainer; overlong answers wrong.
What it does to batches, learning rates and tokens by accident (docs/paper_index.md) is not copied.
"""

from __future__ import annotations

from lightningrl.config.method import Method, Reward
from lightningrl.rl.setup import TrainSetup
from lightningrl.rl.trainer import PolicyTrainer

PUBLISHED = Method(
    rewards=[Reward(name="accuracy", scale="z_score"), Reward(name="tpf", scale="z_score")],
    full_mask=True,
    nll_set="reward",
    overlong_margin=5,
)


def trainer(setup: TrainSetup) -> PolicyTrainer:
    return PolicyTrainer(setup, PUBLISHED)
