"""Planner pre-training as an algorithm that a run can name: dUltra's first stage, before its reinforcement learning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lightningrl.config.section import Section
from lightningrl.rl.algorithm import Algorithm

if TYPE_CHECKING:
    from lightningrl.rl.setup import TrainSetup
    from lightningrl.training.supervised.planner_trainer import PlannerTrainer


class PlannerPretraining(Algorithm):
    """Teach a planner to reveal what Fast-dLLM's factor rule would reveal; everything else of the model stays as it is.

    A base without a planner gets one with random weights. (chinsengi/dUltra-os, planner/planner_trainer.py.)
    """

    class Config(Section):
        """Its keys; the rest is the run's: `steps`, `sequences` a step, `learning_rate`, `microbatch`."""

        length: int = Field(default=512, gt=1)
        """Positions of a canvas: longer sequences are cut, shorter ones filled with the pad token."""
        block: int = Field(default=32, gt=0)
        """The fewest positions of the stretch in which some are masked."""
        factor: float = Field(default=1.0, gt=0)
        """Of the factor rule that the planner imitates."""
        min_learning_rate: float = Field(default=1e-7, ge=0)
        """What the learning rate falls to, on a cosine over the run."""
        compat: bool = False
        """As the published code: the factor rule's off-by-one, confidences with the mask token's share, and stretches
        that may reach into a prompt longer than `length` minus `block`."""

    rolls_out = False
    needs_reference = False

    def trainer(self, setup: TrainSetup) -> PlannerTrainer:
        from lightningrl.training.supervised.planner_trainer import PlannerTrainer

        return PlannerTrainer(setup, self.config)
