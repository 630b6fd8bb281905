"""The supervised control as an algorithm that a run can name. It has no keys of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightningrl.rl.algorithm import Algorithm

if TYPE_CHECKING:
    from lightningrl.rl.setup import TrainSetup
    from lightningrl.training.supervised.control import SupervisedTrainer

_OBJECTIVES = "lightningrl.training.supervised.objectives"
USUAL = {
    "block_causal": f"{_OBJECTIVES}.blocks:BlockDiffusion",
    "full": f"{_OBJECTIVES}.masked:Masked",
    "causal": f"{_OBJECTIVES}.next_token:NextToken",
}
"""How a model's positions see each other -> the objective by which such models are trained, and the control too."""


class Supervised(Algorithm):
    """More supervised training in place of reinforcement learning, for the steps or the compute that the run says."""

    rolls_out = False
    needs_reference = False

    def members(self) -> dict[str, str]:
        return {f"objective/{attention}": member for attention, member in USUAL.items()}

    def trainer(self, setup: TrainSetup) -> SupervisedTrainer:
        from lightningrl.training.supervised.control import SupervisedTrainer

        return SupervisedTrainer(setup)
