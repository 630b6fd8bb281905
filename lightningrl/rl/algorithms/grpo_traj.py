"""GRPO on trajectories, the paper's rival: the same likelihood, rewards summed raw, normalised in their group (Eq. 2).

No value model and no NLL. The filter is the run's (config), as for LightningRL.
"""

from __future__ import annotations

import numpy as np

from lightningrl.rl.advantages import normalise_group
from lightningrl.rl.trainer import PolicyTrainer, TrainSetup


class GRPOTrajectory:
    """Sum of raw rewards, group normalisation."""

    def advantages(self, accuracy_NG: np.ndarray, tpf_NG: np.ndarray) -> np.ndarray:
        return normalise_group(accuracy_NG + tpf_NG)

    def nll_set(self, correct_NG: np.ndarray) -> np.ndarray:
        return np.zeros_like(correct_NG, dtype=bool)


def trainer(setup: TrainSetup) -> PolicyTrainer:
    return PolicyTrainer(setup, GRPOTrajectory())
