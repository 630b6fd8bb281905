"""TraceRL (Wang et al., arXiv 2509.06949), the paper's other rival, with its value model, rows, filter and loss.

Reward: correctness, z-scored in its group, and the raw TPF added to it, on the tokens of the last trainable denoise
step. Advantages: generalised advantage estimation over denoise steps against a value model. Groups with 20 to 80 % of
correct responses are kept. Sums over tokens are divided by the longest response, so short ones count less; the KL term
holds the policy to the one that made the rollouts. No NLL.
"""

from __future__ import annotations

from lightningrl.config.method import Method, Reward, Value
from lightningrl.rl.setup import TrainSetup
from lightningrl.rl.trainer import PolicyTrainer

TRACERL = Method(
    rewards=[Reward(name="accuracy", scale="z_score"), Reward(name="tpf")],
    advantage="none",
    filter_tpf_range=0.0,
    filter_all_wrong=False,
    filter_accuracy=(0.2, 0.8),
    kl_to="rollout",
    nll=0.0,
    reduction="longest-longest-tok",
    value=Value(),
)


def trainer(setup: TrainSetup) -> PolicyTrainer:
    return PolicyTrainer(setup, TRACERL)
