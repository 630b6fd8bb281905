"""LightningRL as the paper's text has it: GRPO with three changes (Hu et al.).

1. advantages   the speed reward (TPF) is z-scored inside its group, the accuracy reward (+-1) is not; their sum is
                normalised over the optimiser update's batch (Eq. 5-7 and the remark under them)
2. loss         clipped surrogate + mu * token NLL on verifier-correct trajectories (Eq. 9, 10)
3. batch        groups whose TPF does not spread are dropped and resampled (section 3.3; rl/filters.py)
"""

from __future__ import annotations

import numpy as np

from lightningrl.rl.advantages import group_z_score, normalise_batch
from lightningrl.rl.trainer import PolicyTrainer, TrainSetup


class LightningRL:
    """Decoupled normalisation, NLL on what the judge found correct."""

    def advantages(self, accuracy_NG: np.ndarray, tpf_NG: np.ndarray) -> np.ndarray:
        return normalise_batch(accuracy_NG + group_z_score(tpf_NG))

    def nll_set(self, correct_NG: np.ndarray) -> np.ndarray:
        return correct_NG


def trainer(setup: TrainSetup) -> PolicyTrainer:
    return PolicyTrainer(setup, LightningRL())
