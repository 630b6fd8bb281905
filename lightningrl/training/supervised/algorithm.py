"""The supervised control as an algorithm that a run can name. It has no keys of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightningrl.rl.algorithm import Algorithm
from lightningrl.training.supervised.registry import USUAL

if TYPE_CHECKING:
    from lightningrl.rl.setup import TrainSetup
    from lightningrl.training.supervised.control import SupervisedTrainer


class Supervised(Algorithm):
    """More supervised training in place of reinforcement learning, for the steps or the compute that the run says."""

    rolls_out = False
    needs_reference = False

    def members(self) -> dict[str, str]:
        return {f"objective/{attention}": member for attention, member in USUAL.items()}

    def trainer(self, setup: TrainSetup) -> SupervisedTrainer:
        from lightningrl.training.supervised.control import SupervisedTrainer

        return SupervisedTrainer(setup)
